"""What `fisher-select` says before it works, and how it writes the library's options."""

import numpy as np
import pytest

from fisher_jax.command.arguments import flags
from fisher_jax.command.errors import in_flags
from fisher_jax.pipeline import Request
from fisher_jax.pipeline.plan import plan
from tests.helpers.cli import K, N, texts, write_rows


@pytest.mark.parametrize(("dtype", "gib"), [("float32", "5.0"), ("bfloat16", "3.0")])
def test_the_models_own_memory_is_told(dtype, gib):
    request = Request(pool="p.jsonl", model="m", n_samples=1, dtype=dtype)
    planned = plan(request, np.array([2]), np.array([2]), 8, n_parameters=2**30, n_fed=2)
    assert f"1 row, 2 tokens to learn, about {gib} GiB and " in str(planned)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "give exactly one of `n_samples`, `fraction`",
            "give exactly one of --n-samples, --fraction",
        ),
        ("pass `on_empty=skip` to leave them out", "pass --on-empty skip to leave them out"),
        ("`out` must end in .jsonl: `pool` is read", "OUT must end in .jsonl: POOL is read"),
        ("a row holds `theta=1` and on_empty=1", "a row holds `theta=1` and on_empty=1"),
    ],
)
def test_options_are_written_as_flags(message, said):
    assert in_flags(message, flags()) == said


def test_the_first_rows_are_shown_with_ready_embeddings_too(run, refused, ready, out, tmp_path):
    rows = [{"text": text} for text in ["again", *texts(n=N - 2), "again"]]
    pool = write_rows(tmp_path / "p.jsonl", rows)
    argv = [*ready, "-o", out, "--n-samples", K, "--dry-run", "--preview"]
    code, messages = run(pool, *argv, 2, "--deduplicate", "exact")
    assert code == 0
    shown = [f"{pool}, line {i + 1}: {rows[i]['text']}" for i in range(2)]
    assert messages.splitlines()[1:] == shown
    refused([*argv, 2], ["--preview shows rows: give the POOL that has them"])
    refused([pool, *argv, -3], ["--preview: '-3' is no whole number of at least 0"])


@pytest.mark.parametrize("flag", ["--split", "--subset"])
def test_a_part_of_no_data_set_is_refused(flag, refused, ready, out, tmp_path):
    pool = write_rows(tmp_path / "p.jsonl", [{"id": i} for i in range(N)])
    argv = [pool, *ready, "-o", out, "--n-samples", K, flag, "train"]
    refused(argv, [f"{flag} is of a data set, and none is named: leave it out"])


def test_what_is_said_has_a_line_of_its_own_below_a_bar(run, ready, out, tmp_path, monkeypatch):
    def bars(file, copies, show, against):
        show(len(file))
        return np.arange(len(file))

    monkeypatch.setattr("fisher_jax.pipeline.copies.unique", bars)
    pool = write_rows(tmp_path / "p.jsonl", [{"text": text} for text in texts()])
    argv = [pool, *ready, "-o", out, "--n-samples", K, "--deduplicate", "near", "--dry-run"]
    code, messages = run(*argv)
    *_, bar, said = messages.replace("\r", "\n").splitlines()
    assert code == 0 and bar.startswith("looking for copies: 100%")
    assert said.startswith(f"fisher-select: {N} rows, ")


def test_a_switch_is_told_by_its_first_name():
    assert (flags()["eos"], flags()["cache"]) == ("--eos", "--cache")
