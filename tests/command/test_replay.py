"""`--config manifest.json`: a run again."""

import json

import pytest

from fisher_jax.command.replay import arguments_of
from tests.helpers.cli import D, K, manifest_of, write_embeddings, write_rows


@pytest.fixture
def manifest(run, ready, out, tmp_path):
    """Of a run with options of every kind."""
    rows = [{"id": i, "source": "ab"[i % 2]} for i in range(8)]
    pool = write_rows(tmp_path / "p.jsonl", rows)
    argv = [pool, *ready, "-o", out, "--n-samples", K, "--center", "--ridge", "0.5"]
    argv += ["--group-by", "source", "--group-cap", "a=1", "--group-cap", "b=2", "--certify"]
    argv += ["--project-dim", D - 1]
    assert run(*argv)[0] == 0
    return out.with_name(out.name + ".report") / "manifest.json"


def test_a_run_again_makes_the_same_bytes(run, refused, manifest, out):
    first, options = out.read_bytes(), manifest_of(out)["options"]
    refused(["--config", manifest], [out, "exists", "--overwrite"])
    out.write_bytes(b"other")
    code, messages = run("--config", manifest, "--overwrite")
    assert code == 0 and "has changed" not in messages
    assert out.read_bytes() == first
    assert manifest_of(out)["options"] == options | {"overwrite": True}
    refused(["--config", manifest], [out, "exists", "--overwrite"])  # nor is that taken over


def test_what_is_given_takes_the_place_of_what_was(run, manifest, out):
    other = out.with_name("other.jsonl")
    argv = ["--config", manifest, "-o", other, "--fraction", 0.25, "--group-cap", "equal"]
    assert run(*argv, "--no-center")[0] == 0
    before, after = manifest_of(out)["options"], manifest_of(other)["options"]
    assert {name: value for name, value in after.items() if value != before[name]} == {
        "out": str(other),
        "report_dir": f"{other}.report",
        "n_samples": None,
        "fraction": 0.25,
        "group_cap": "equal",
        "center": False,
    }


def test_files_that_have_changed_are_told(run, manifest, out, tmp_path):
    write_embeddings(tmp_path / "emb.safetensors", seed=1)
    code, messages = run("--config", manifest, "--dry-run", "--overwrite")
    assert code == 0
    assert f"{tmp_path / 'emb.safetensors'} has changed since {manifest}." in messages
    assert "p.jsonl has changed" not in messages


def test_every_option_stands_in_words_as_it_was(manifest):
    options = {
        "pool": ["a.jsonl", "b.jsonl"],
        "model": "m",
        "fraction": 0.5,
        "eos": False,
        "skip_bad": True,
        "exclude": "x.txt",
        "ridge": 1e-05,
        "seed": 3,
        "normalize": "unit",
        "out": "o.jsonl",
    }
    manifest.write_text(json.dumps({"options": options, "result": {}}))
    args = vars(arguments_of(["--config", str(manifest)]))
    assert args["pool"] == ("a.jsonl", "b.jsonl") and args["eos"] is False
    for name in set(options) - {"pool"}:
        assert str(args[name]) == str(options[name])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pool": "a list in Python"}, ["manifest.json: POOL was a list in Python: name a file"]),
        ({"colour": 1}, ["there is no option 'colour'"]),
        ({"compare": ["nobody"]}, ["manifest.json: ", "there is no selector 'nobody'"]),
        ({"seed": "x"}, ["manifest.json: argument --seed: invalid int value: 'x'"]),
        ({"seed": [1]}, ["--seed", "invalid int"]),
        ({"pool": "a\0b"}, ["manifest.json: argument POOL: 'a\\x00b' has a zero byte"]),
        ({"exclude": "a\0b"}, ["argument --against/--exclude: 'a\\x00b' has a zero byte"]),
        (None, ["has no options: name a manifest.json"]),
    ],
)
def test_manifests_that_cannot_be_are_refused(options, words, refused, manifest):
    manifest.write_text(json.dumps({"options": options, "result": {}}))
    refused(["--config", manifest, "-o", "x.jsonl", "--model", "m", "--n-samples", 1], words)


def test_help_is_told_with_a_manifest_too(capsys):
    with pytest.raises(SystemExit) as done:
        arguments_of(["--config", "none.json", "--help"])
    assert done.value.code == 0 and "--group-cap CAP" in capsys.readouterr().out


def test_what_is_no_manifest_is_refused(refused, tmp_path):
    refused(["--config", tmp_path / "none.json"], ["can't read --config", "none.json"])
    (tmp_path / "broken.json").write_text("{")
    refused(["--config", tmp_path / "broken.json"], ["broken.json is no JSON"])
    (tmp_path / "deep.json").write_text("[" * 100_000)
    refused(["--config", tmp_path / "deep.json"], ["deep.json is no JSON"])


@pytest.mark.parametrize(
    ("budget", "cost_column"), [(["--n-samples", "4"], None), (["--token-budget", "9"], "price")]
)
def test_another_budget_takes_its_unit_with_it(budget, cost_column, manifest):
    options = {"pool": ["a.jsonl"], "token_budget": 5, "cost_column": "price"}
    manifest.write_text(json.dumps({"options": options, "result": {}}))
    args = arguments_of(["--config", str(manifest), "-o", "o.jsonl", *budget])
    assert args.cost_column == cost_column


SWITCHES = {  # what was, what is given, and what is left
    "a model": (
        {"embeddings": "e.safetensors", "initial_embeddings": "i.safetensors"},
        ["--model", "m"],
        {"model": "m", "embeddings": None, "initial_embeddings": None},
    ),
    "embeddings": (
        {"model": "m", "batch_tokens": 64, "eos": True, "initial": "i.jsonl"},
        ["--embeddings", "e.safetensors"],
        {"model": None, "batch_tokens": None, "eos": None, "initial": None},
    ),
    "a column": (
        {"prompt_column": "p", "completion_column": "c"},
        ["--text-column", "t"],
        {"prompt_column": None, "completion_column": None, "text_column": "t"},
    ),
    "one of two columns": (
        {"prompt_column": "p", "completion_column": "c"},
        ["--prompt-column", "q"],
        {"prompt_column": "q", "completion_column": "c"},
    ),
    "a selector": (
        {"selector": "fisher", "compare": ["uniform", "longest"]},
        ["--selector", "uniform"],
        {"selector": "uniform", "compare": ["longest"]},
    ),
    "a selector that divides nothing": (
        {"devices": 4},
        ["--selector", "uniform"],
        {"selector": "uniform", "devices": 1},
    ),
    "a selector that divides": (
        {"devices": 4},
        ["--selector", "fisher_per_token"],
        {"selector": "fisher_per_token", "devices": 4},
    ),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_what_is_given_takes_the_place_of_its_rival(name, manifest):
    options, argv, left = SWITCHES[name]
    manifest.write_text(json.dumps({"options": {"pool": "p.jsonl"} | options, "result": {}}))
    args = vars(arguments_of(["--config", str(manifest), "-o", "o.jsonl", *argv]))
    assert {of: args[of] for of in left} == left
