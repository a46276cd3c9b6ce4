"""`fj.choose`: the command's work as values."""

import inspect
import json
import subprocess
import sys

import numpy as np
import pytest

import fisher_jax as fj
from fisher_jax.command.arguments import flags, parser
from fisher_jax.design.projection import projected, projection
from fisher_jax.models import load_model
from fisher_jax.pipeline import Output, Request, Step
from fisher_jax.util.errors import UserError
from tests.helpers.cli import D, K, M, N, read_rows, snapshot, texts, write_embeddings, write_rows


def test_rows_in_python_are_chosen_as_those_of_a_file(run, llama, out, tmp_path):
    rows = [{"text": text, "id": i} for i, text in enumerate(texts())]
    pool = write_rows(tmp_path / "p.jsonl", rows)
    assert run(pool, "-o", out, "--model", llama, "--n-samples", K)[0] == 0
    for given in (pool, str(pool), rows, texts(), (row for row in rows)):
        choice = fj.choose(given, model=load_model(str(llama)), n_samples=K)
        assert choice.ranking.tolist() == [row["id"] for row in read_rows(out)]
        assert choice.gains.tolist() == [row["fisher_gain"] for row in read_rows(out)]
    assert choice.log_det == pytest.approx(choice.gains.sum(), rel=1e-5)
    np.testing.assert_array_equal(choice.embeddings.tokens, fj.embed(texts(), str(llama)).tokens)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_what_is_written_is_what_the_command_writes(suffix, run, llama, out, tmp_path):
    rows = [{"text": text, "id": i} for i, text in enumerate(texts())]
    pool, mine = write_rows(tmp_path / "p.jsonl", rows), out.with_name(f"mine.{suffix}")
    out = out.with_suffix(f".{suffix}")
    argv = [pool, "-o", out, "--model", llama, "--token-budget", 2 * M, "--selector", "uniform"]
    assert run(*argv)[0] == 0
    choice = fj.choose(rows, model=llama, token_budget=2 * M, selector="uniform")
    before = snapshot(tmp_path)
    line = choice.write(mine)
    assert str(mine) + ".report" in line
    assert mine.read_bytes() == out.read_bytes()
    theirs, ours = (
        json.loads((path.with_name(path.name + ".report") / "manifest.json").read_text())
        for path in (out, mine)
    )
    assert theirs["uniform_log_det"] == ours["uniform_log_det"]
    assert ours["options"].keys() == theirs["options"].keys()
    assert ours["options"]["pool"] == "a list in Python"
    assert {
        path: content for path, content in snapshot(tmp_path).items() if path in before
    } == before
    with pytest.raises(UserError, match="exists: name another output or pass `overwrite`"):
        choice.write(mine)
    choice.write(mine, overwrite=True)


def test_ready_embeddings_and_scores_are_values(llama, tmp_path):
    emb = write_embeddings(tmp_path / "emb.safetensors")
    by_file = fj.choose(embeddings=tmp_path / "emb.safetensors", n_samples=K)
    by_value = fj.choose(embeddings=emb, n_samples=K)
    assert by_file.ranking.tolist() == by_value.ranking.tolist()
    vectors = fj.choose(embeddings=np.eye(4, 3, dtype=np.float32), n_samples=2)
    assert vectors.ranking.tolist() == [0, 1]
    assert by_file.facts["embeddings_sha256"] and "embeddings" not in by_value.facts
    choice = fj.choose(texts(), model=llama, n_samples=K, selector="perplexity_low")
    order = np.argsort(choice.scores["losses"], kind="stable")[:K]
    assert choice.ranking.tolist() == order.tolist()


def test_a_projection_is_of_the_pool_and_of_what_is_beside_it(tmp_path):
    emb = write_embeddings(tmp_path / "emb.safetensors")
    owned = write_embeddings(tmp_path / "owned.safetensors", (M,), seed=1)
    asked = {"initial_embeddings": owned, "n_samples": K, "normalize": "none"}
    choice = fj.choose(embeddings=emb, project_dim=D - 1, seed=3, **asked)
    to = projection(D, D - 1, 3)
    expected = fj.select(projected(emb, to), n_samples=K, initial=projected(owned, to))
    assert choice.ranking.tolist() == expected.ranking.tolist()
    np.testing.assert_allclose(choice.gains, expected.gains, rtol=1e-4)
    assert choice.notes == [
        f"Selects, and counts nats, by a random projection of {D} dimensions to {D - 1}."
    ]


@pytest.mark.parametrize("budget", [{"n_samples": K}, {"token_budget": 2 * M}])
def test_rules_that_are_compared_choose_as_they_would_alone(budget, llama):
    asked = {"model": llama, "targets": texts(seed=1, n=2), **budget}
    names = ["rds", "perplexity_low", "longest"]
    choice = fj.choose(texts(), compare=names, **asked)
    alone = fj.choose(texts(), **{name: asked[name] for name in ("model", *budget)})
    assert choice.ranking.tolist() == alone.ranking.tolist()
    assert [*choice.others] == names
    for name in names:
        told = asked if name == "rds" else {k: v for k, v in asked.items() if k != "targets"}
        alone = fj.choose(texts(), selector=name, **told)
        assert choice.others[name].ranking.tolist() == alone.ranking.tolist()
        assert choice.others[name].gains.tolist() == alone.gains.tolist()


def test_rows_left_out_do_not_shift_the_ranking(llama):
    rows = texts()
    plain = fj.choose(rows, model=llama, n_samples=K)
    rows[1:1] = ["", rows[0].upper()]
    choice = fj.choose(rows, model=llama, n_samples=K, on_empty="skip", deduplicate="exact")
    shifted = [i + 2 * (i >= 1) for i in plain.ranking]
    assert choice.ranking.tolist() == shifted
    assert choice.notes == [
        "1 exact copy was dropped.",
        "1 row with no token to predict was skipped.",
    ]


def test_every_step_is_told(llama):
    seen: list[Step] = []
    fj.choose(texts(), model=llama, n_samples=K, selector="el2n", on_progress=seen.append)
    for what, total, unit in (
        ("embedding", N, "row"),
        ("scoring", N * M, "token"),
        ("selecting", K, "row"),
    ):
        steps = [step for step in seen if step.what == what]
        assert steps[0] == Step(what, 0, total, unit) and steps[-1].done == total


WRONG = {
    "no rows": ({"pool": [], "model": "m", "n_samples": 1}, "pool is empty"),
    "no text": ({"pool": (3 for _ in "a"), "model": "m", "n_samples": 1}, "pool, row 0 is an int"),
    "no column": ({"pool": [{"text": "a"}, {"x": 1}], "model": "m", "n_samples": 1}, "pool, row 1"),
    "one mapping": (
        {"pool": {"text": "a"}, "model": "m", "n_samples": 1},
        "a path or a list of rows",
    ),
    "two budgets": ({"pool": ["a"], "model": "m", "n_samples": 1, "fraction": 1}, "exactly one of"),
    "no model": ({"pool": ["a"], "n_samples": 1}, "either `model`"),
    "no rule": (
        {"pool": ["a"], "model": "m", "n_samples": 1, "selector": "fischer"},
        "did you mean 'fis",
    ),
    "planted": (
        {"pool": ["a"], "model": "m", "n_samples": 1, "selector": "exact_information"},
        "needs theta",
    ),
    "no targets": (
        {"pool": ["a"], "model": "m", "n_samples": 1, "selector": "rds"},
        "`targets=FILE`",
    ),
    "no rule to compare with": (
        {"pool": ["a"], "model": "m", "n_samples": 1, "compare": ["longset"]},
        "did you mean 'longest'",
    ),
    "one name": (
        {"pool": ["a"], "model": "m", "n_samples": 1, "compare": "uniform"},
        "`compare` takes a list of names, got 'uniform'",
    ),
    "itself": (
        {"pool": ["a"], "model": "m", "n_samples": 1, "compare": ["fisher"]},
        "`compare=fisher` chooses already",
    ),
    "compared without a model": (
        {"embeddings": "e", "n_samples": 1, "compare": ["uniform", "el2n"]},
        "`compare=el2n` asks the model: give `model`",
    ),
    "compared without a task": (
        {"pool": ["a"], "model": "m", "n_samples": 1, "compare": ["rds"]},
        "`compare=rds` chooses for a task: give its rows as `targets=FILE`",
    ),
    "compared by completions": (
        {"pool": ["a"], "model": "m", "n_samples": 1, "compare": ["ifd"], "positions": "prompt"},
        "`compare=ifd` looks at completions",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_refused(name):
    options, words = WRONG[name]
    with pytest.raises(UserError) as caught:
        fj.choose(**options)
    assert words in str(caught.value)


def test_a_word_that_is_no_choice_is_refused():
    program = "from fisher_jax.pipeline import Request; Request(on_empty='keep', n_samples=1)"
    argv = [sys.executable, "-c", program]  # here the types would be checked first
    done = subprocess.run(argv, capture_output=True, text=True)
    assert "UserError: `on_empty` must be one of error, skip, got 'keep'" in done.stderr


def test_an_unknown_option_is_a_mistake_of_the_program():
    with pytest.raises(TypeError, match="n_sample"):
        fj.choose(["a b"], model="m", n_sample=1)


def test_the_function_can_do_what_the_command_can():
    options = set(vars(parser().parse_args(["-o", "x"])))
    places = set(inspect.signature(Output).parameters)
    shown = {"preview", "dry_run", "config"}  # of what the command says, not of the choice
    assert options - places - shown == set(inspect.signature(Request).parameters) - {"answers"}
    assert options - shown <= set(flags())
    defaults = vars(parser().parse_args(["-o", "x"]))
    for name, parameter in inspect.signature(Request).parameters.items():
        if name != "answers":
            assert defaults[name] == parameter.default
