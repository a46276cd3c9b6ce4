"""The command `fisher-select`, run in this process except for its start-up."""

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

import fisher_jax as fj
from fisher_jax.command.main import main
from fisher_jax.design.budget import Budget
from fisher_jax.design.randomized import draw_fisher
from fisher_jax.pipeline import output
from fisher_jax.selectors import SELECTORS
from fisher_jax.util.files import replacing_files
from fisher_jax.util.platforms import here
from tests.helpers.cli import (
    D,
    K,
    M,
    N,
    manifest_of,
    page_of,
    ranking_of,
    read_rows,
    texts,
    write_embeddings,
    write_rows,
)

# Text through a model


def test_text_is_embedded_and_chosen_as_the_library_does(run, llama, out, tmp_path):
    rows = texts()
    pool = write_rows(tmp_path / "p.jsonl", [{"id": i, "text": row} for i, row in enumerate(rows)])
    code, messages = run(pool, "-o", out, "--model", llama, "--n-samples", K)
    assert code == 0
    assert f"{N} rows, {N * M} tokens to learn" in messages.replace("\r", "\n").splitlines()[0]
    expected = fj.select(fj.embed(rows, str(llama)), n_samples=K)
    chosen = read_rows(out)
    assert [row["id"] for row in chosen] == expected.ranking.tolist()
    assert [row["fisher_rank"] for row in chosen] == list(range(K))
    np.testing.assert_array_equal([row["fisher_gain"] for row in chosen], expected.gains)
    result = manifest_of(out)["result"]
    assert result["model"] == str(llama)
    assert (result["skipped_rows"], result["cut_rows"]) == (0, 0)
    assert manifest_of(out)["notes"] == []
    assert manifest_of(out)["options"]["batch_tokens"] == here().forward_tokens
    assert manifest_of(out)["sizes"] == here()._asdict()


def test_rows_with_nothing_to_predict_are_an_error_or_skipped(run, refused, llama, out, tmp_path):
    rows = texts()
    whole = write_rows(tmp_path / "whole.jsonl", [{"text": row} for row in rows])
    budget = ["--model", llama, "--n-samples", K]
    assert run(whole, "-o", out.with_name("whole.jsonl"), *budget)[0] == 0
    for at, nothing in ((2, ""), (2, "a"), (5, "   ")):
        rows.insert(at, nothing)
    pool = write_rows(tmp_path / "p.jsonl", [{"text": row} for row in rows])
    words = [pool, "3 row(s)", "line 3, line 4, line 6", "--on-empty skip"]
    refused([pool, "-o", out, *budget], words)

    assert run(pool, "-o", out, *budget, "--on-empty", "skip")[0] == 0
    kept = np.delete(np.arange(N + 3), [2, 3, 5])
    plain, skipping = ranking_of(out.with_name("whole.jsonl")), ranking_of(out)
    assert skipping["index"] == kept[plain["index"]].tolist() != plain["index"]
    assert [row["text"] for row in read_rows(out)] == [rows[i] for i in skipping["index"]]
    result = manifest_of(out)["result"]
    assert (result["rows"], result["skipped_rows"]) == (N + 3, 3)
    note = "3 rows with no token to predict were skipped."
    assert manifest_of(out)["notes"] == [note] and f"<li>{note}</li>" in page_of(out)


def test_long_rows_are_cut_and_counted(run, llama, out, tmp_path):
    short = texts()
    long = [row + " x y z" if i in (1, 6) else row for i, row in enumerate(short)]
    rankings = {}
    for name, rows in (("short", short), ("long", long)):
        pool = write_rows(tmp_path / f"{name}.jsonl", [{"text": row} for row in rows])
        target = out.with_name(f"{name}.jsonl")
        code, _ = run(pool, "-o", target, "--model", llama, "--n-samples", K, "--max-length", M + 1)
        assert code == 0
        rankings[name] = ranking_of(target)
    assert rankings["long"] == rankings["short"]
    chosen = [row["text"] for row in read_rows(out.with_name("long.jsonl"))]
    assert chosen == [long[i] for i in rankings["long"]["index"]]  # written whole
    target = out.with_name("long.jsonl")
    note = f"2 rows were longer than {M + 1} tokens and were cut."
    assert manifest_of(target)["result"]["cut_rows"] == 2
    assert manifest_of(target)["notes"] == [note] and f"<li>{note}</li>" in page_of(target)


def test_a_row_counts_once_and_one_row_is_no_rows(run, llama, out, tmp_path):
    rows = [{"prompt": "q a ", "completion": text} for text in texts(words=M)]
    rows[2]["completion"] += " x y z"  # cut
    rows[5]["prompt"] = " ".join(["q"] * (M + 3))  # cut to its prompt, so with nothing to predict
    pool = write_rows(tmp_path / "p.jsonl", rows)
    argv = [pool, "-o", out, "--model", llama, "--max-length", M + 2, "--on-empty", "skip"]
    code, messages = run(*argv, "--n-samples", 1)
    assert code == 0
    notes = [
        "1 row with no token to predict was skipped.",
        f"1 row was longer than {M + 2} tokens and was cut.",
    ]
    assert manifest_of(out)["notes"] == notes and " ".join(notes) in messages
    result = manifest_of(out)["result"]
    assert (result["skipped_rows"], result["cut_rows"]) == (1, 1)
    assert f"1 row with {M} tokens chosen." in page_of(out) and "1 example, log det" in messages


@pytest.mark.parametrize("limit", [1, 33])
def test_lengths_that_the_model_cannot_take_are_refused(limit, refused, llama, out, tmp_path):
    pool = write_rows(tmp_path / "p.jsonl", [{"text": "a b"}])
    argv = [pool, "-o", out, "--model", llama, "--n-samples", "1", "--max-length", limit]
    refused(argv, ["max_length", "from 2 to 32", f"got {limit}"])


def test_only_completions_count(run, refused, llama, out, tmp_path):
    rows = [{"completion": text, "prompt": "q a "} for text in texts(words=M)]
    pool = write_rows(tmp_path / "p.jsonl", rows)
    argv = [pool, "-o", out, "--model", llama, "--n-samples", K]
    words = [pool, f"{N} row(s)", "line 1, line 2", "--on-empty skip"]
    refused([*argv, "--max-length", "2"], words)
    refused([*argv, "--max-length", "2", "--on-empty", "skip"], [pool, "larger --max-length"])
    assert run(*argv)[0] == 0
    assert ranking_of(out)["tokens"] == [M] * K
    expected = fj.select(fj.embed(rows, str(llama)), n_samples=K).ranking.tolist()
    assert ranking_of(out)["index"] == expected
    chosen = [{name: row[name] for name in ("completion", "prompt")} for row in read_rows(out)]
    assert chosen == [rows[i] for i in expected]


def test_prompts_can_be_selected_by_and_completions_are_paid(run, refused, llama, out, tmp_path):
    rows = [
        {"prompt": f"{text} ", "completion": "x y z"[: 1 + 2 * (i % 3)]}
        for i, text in enumerate(texts(words=M))
    ]
    pool = write_rows(tmp_path / "p.jsonl", rows)
    argv = [pool, "-o", out, "--model", llama, "--positions", "prompt"]
    assert run(*argv, "--token-budget", 5)[0] == 0
    emb = fj.embed(rows, str(llama), positions="prompt")
    assert emb.lengths.tolist() == [M] * N  # the last prompt token predicts the completion's first
    costs = [1 + i % 3 for i in range(N)]
    expected = fj.select(emb, token_budget=5, costs=costs).ranking.tolist()
    assert ranking_of(out)["index"] == expected
    # of prompts longer than the budget, too, and what is reported is what is paid
    assert ranking_of(out)["tokens"] == [costs[i] for i in expected]
    assert manifest_of(out)["result"]["selected_tokens"] == sum(costs[i] for i in expected)
    assert run(*argv, "--overwrite", "--token-budget", 1)[0] == 0
    assert ranking_of(out)["tokens"] == [1] and M > 1
    same = [row | {"completion": "q q q"} for row in rows]
    np.testing.assert_array_equal(fj.embed(same, str(llama), positions="prompt").tokens, emb.tokens)
    plain = write_rows(tmp_path / "t.jsonl", [{"text": "a b"}] * N)
    words = ["line 1 has no prompt", "prompt + completion"]
    target = out.with_name("t.jsonl")
    refused(
        [plain, "-o", target, "--model", llama, "--positions", "prompt", "--n-samples", K], words
    )


# Budgets, selectors and design


@pytest.mark.parametrize("name", ["uniform", "longest", "i_optimal", "fisher_per_token"])
def test_a_selector_by_name_is_the_librarys(name, run, ready, out, tmp_path):
    assert run(*ready, "-o", out, "--n-samples", K, "--selector", name, "--seed", 5)[0] == 0
    emb = standardized(write_embeddings(tmp_path / "again.safetensors"))
    expected = SELECTORS[name](emb, n_samples=K, seed=5)
    assert ranking_of(out)["index"] == expected.ranking.tolist()
    assert manifest_of(out)["options"]["selector"] == name


def test_a_report_that_cannot_be_moved_leaves_no_output(run, ready, out, monkeypatch):
    @contextlib.contextmanager
    def stuck(folder, ours):
        with replacing_files(folder, ours) as temporary:
            yield temporary
            raise OSError("no space left")

    monkeypatch.setattr(output, "replacing_files", stuck)
    code, messages = run(*ready, "-o", out, "--n-samples", K)
    assert code == 2 and "no space left" in messages and [*out.parent.iterdir()] == []


@pytest.mark.parametrize("name", ["fisher", "i_optimal", "uniform", "fisher_random"])
@pytest.mark.parametrize("budget", [["--n-samples", K], ["--token-budget", 2 * M]])
def test_the_bar_of_a_selection_ends_where_it_does(name, budget, run, ready, out):
    code, messages = run(*ready, "-o", out, *budget, "--selector", name, "--seed", 3)
    assert code == 0
    bar = [line for line in messages.replace("\r", "\n").split("\n") if "selecting" in line][-1]
    chosen = ranking_of(out)["tokens"]
    spent = len(chosen) if "--n-samples" in budget else sum(chosen)
    assert f" {spent}/{budget[1]} [" in bar


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_random_design_brings_its_weights(suffix, run, ready, out, tmp_path):
    out = out.with_name(f"chosen.{suffix}")
    argv = [*ready, "-o", out, "--n-samples", K, "--selector", "fisher_random", "--seed", 2]
    assert run(*argv)[0] == 0
    emb = standardized(write_embeddings(tmp_path / "again.safetensors"))
    expected = draw_fisher(emb, Budget.of(emb, n_samples=K), ridge=1.0, seed=2)
    rows = pq.read_table(out).to_pylist() if suffix == "parquet" else read_rows(out)
    assert [row["index"] for row in rows] == expected.ranking.tolist()
    np.testing.assert_allclose([row["fisher_weight"] for row in rows], expected.weights)


def test_selectors_that_need_more_and_options_without_use_are_refused(refused, ready, out):
    argv = [*ready, "-o", out, "--n-samples", K]
    unknown = "exact_information"  # the model has no theta for it
    refused(
        [*argv, "--selector", unknown],
        [f"no selector {unknown!r}", "uniform", "--list"],
    )
    refused([*argv, "--max-length", 9], ["--max-length goes with --model"])
    refused([*argv, "--positions", "prompt"], ["--positions goes with --model"])


def test_selectors_are_listed_with_what_they_favour(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--list-selectors"])
    *entries, legend = capsys.readouterr().out.replace("\n    ", " ").splitlines()
    assert done.value.code == 0 and legend.startswith("Measured is the difference to uniform")
    offered = [rule for rule in SELECTORS.values() if not rule.planted]
    for entry, rule in zip(entries, offered, strict=True):
        assert entry.startswith(f"{rule.name}: {rule.favours}. Needs: ") and "Measured: " in entry


def test_an_unknown_selector_is_told_with_the_nearest(refused, ready, out):
    argv = [*ready, "-o", out, "--n-samples", K, "--selector", "prototype_hard"]
    refused(argv, ["no selector 'prototype_hard': did you mean 'prototypes_hard'?"])
    argv = [*ready, "-o", out, "--n-samples", K, "--compare", "uniform", "longset"]
    refused(argv, ["argument --compare: there is no selector 'longset': did you mean 'longest'?"])
    argv[-1] = "el2n"
    refused(argv, ["--compare el2n asks the model: give --model"])


def test_rules_are_compared_and_choices_explained(run, llama, out, tmp_path):
    rows = [{"text": text, "source": "ab"[i % 2]} for i, text in enumerate(texts())]
    pool, task = (tmp_path / name for name in ("pool.jsonl", "task.jsonl"))
    write_rows(pool, rows)
    write_rows(task, [{"text": text} for text in texts(seed=1, n=2)])
    argv = [pool, "-o", out, "--model", llama, "--n-samples", K, "--targets", task]
    assert run(*argv, "--compare", "rds", "uniform")[0] == 0
    page, manifest = page_of(out), manifest_of(out)
    assert manifest["options"]["compare"] == ["rds", "uniform"]
    compared = manifest["compared"]
    assert [*compared] == ["rds", "uniform"] and compared["uniform"]["rows"] == K
    choice = fj.choose(rows, model=llama, n_samples=K, targets=texts(seed=1, n=2), compare=["rds"])
    common = {*choice.selection.ranking} & {*choice.others["rds"].ranking}
    assert compared["rds"]["rows_in_common"] == len(common)
    assert compared["rds"]["log_det"] == choice.others["rds"].log_det
    assert page.count("Tokens that add most: ") == K and "<th>source</th>" in page
    labels = {word for row in rows for word in row["text"].split()[1:]}
    words = re.findall(r"“(.*?)” \d", page)
    assert len(words) == K * M and {*words} <= labels
    assert run(*argv, "--selector", "rds", "--overwrite")[0] == 0
    page = page_of(out)
    assert "mean similarity to the task" in page and "Tokens that add most" not in page
    found = re.findall(r"Nearest row of the task, \d+ \(cosine -?\d.\d\d\): (.*?)</p>", page)
    assert len(found) == K and {*found} <= {*texts(seed=1, n=2)}


def standardized(emb, *, center=False, normalize=True):
    tokens = emb.tokens - emb.tokens.mean(0) * center
    scale = np.sqrt((tokens**2).sum(1).mean()) if normalize else 1
    return fj.TokenEmbeddings(tokens / scale, emb.offsets)


DESIGNS = {
    "as they are": (["--normalize", "none"], {"normalize": False}, 1.0),
    "default": ([], {}, 1.0),
    "ridge": (["--ridge", "0.01"], {}, 0.01),
    "centred": (["--center"], {"center": True}, 1.0),
}


@pytest.mark.parametrize("name", DESIGNS)
def test_the_order_of_choice_is_that_of_select(name, run, out, tmp_path):
    options, treatment, ridge = DESIGNS[name]
    emb = write_embeddings(tmp_path / "emb.safetensors")
    emb.tokens[:] = emb.tokens * np.linspace(1, 3, D) + 2
    save_file({"tokens": emb.tokens, "offsets": emb.offsets}, tmp_path / "emb.safetensors")
    argv = ["--embeddings", tmp_path / "emb.safetensors", "-o", out, "--n-samples", K]
    assert run(*argv, *options)[0] == 0
    expected = fj.select(standardized(emb, **treatment), n_samples=K, ridge=ridge)
    rows = read_rows(out)
    assert [row["index"] for row in rows] == expected.ranking.tolist()
    assert [row["fisher_rank"] for row in rows] == list(range(K))
    np.testing.assert_allclose([row["fisher_gain"] for row in rows], expected.gains, rtol=1e-4)
    assert list(rows[0]) == ["index", "fisher_rank", "fisher_gain"]


# 0.3125 N = 2.5 and 0.25 N = 2.0 rows
@pytest.mark.parametrize(("fraction", "rows"), [("0.001", 1), ("0.25", 2), ("0.3125", 3)])
def test_a_fraction_is_rounded_half_up_and_buys_at_least_a_row(fraction, rows, run, ready, out):
    assert run(*ready, "-o", out, "--fraction", fraction)[0] == 0
    assert len(read_rows(out)) == rows


def test_a_token_budget_is_never_exceeded(run, out, tmp_path):
    lengths = [4, 2, 4, 2, 4, 2, 4, 2]
    emb = write_embeddings(tmp_path / "emb.safetensors", lengths)
    argv = ["--embeddings", tmp_path / "emb.safetensors", "-o", out, "--normalize", "none"]
    for budget in (3, 9):
        assert run(*argv, "--token-budget", budget, "--overwrite")[0] == 0
        ranking = ranking_of(out)
        assert 0 < sum(ranking["tokens"]) <= budget
        assert ranking["tokens"] == [lengths[i] for i in ranking["index"]]
        assert ranking["index"] == fj.select(emb, token_budget=float(budget)).ranking.tolist()
    assert run(*argv, "--token-budget", 10**400, "--overwrite")[0] == 0
    assert sorted(ranking_of(out)["index"]) == list(range(N))


def test_the_same_call_gives_the_same_bytes(run, ready, out, tmp_path):
    pool = write_rows(tmp_path / "p.jsonl", [{"x": i} for i in range(N)])
    outputs, uniform = [], []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        target = out.with_name(f"{name}.jsonl")
        assert run(pool, *ready, "-o", target, "--n-samples", K, "--seed", seed)[0] == 0
        ranking = target.with_name(target.name + ".report") / "ranking.parquet"
        outputs.append((target.read_bytes(), ranking.read_bytes()))
        uniform.append(manifest_of(target)["uniform_log_det"])
    assert outputs[0] == outputs[1] == outputs[2]
    assert uniform[0] == uniform[1] != uniform[2]


# Start-up, in a process of its own


def test_help_names_every_option():
    command = Path(sys.executable).with_name("fisher-select")
    done = subprocess.run([command, "--help"], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    for option in (
        "POOL",
        "--targets",
        "--deduplicate",
        "--positions",
        "--out",
        "--n-samples",
        "--fraction",
        "--token-budget",
        "--model",
        "--embeddings",
        "--text-column",
        "--max-length",
        "--on-empty",
        "--batch-tokens",
        "--dtype",
        "--positions",
        "--selector",
        "--ridge",
        "--normalize",
        "--center",
        "--seed",
        "--report-dir",
        "--overwrite",
        "--version",
    ):
        assert option in done.stdout
