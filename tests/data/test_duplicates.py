"""Copies among a pool's rows, by function and by `fisher-select --deduplicate`."""

import importlib.util
import sys

import pytest

from fisher_jax.data import Example, PoolError, examples_of
from fisher_jax.data.duplicates import deduplicate_exact, deduplicate_near, unique
from tests.helpers.cli import (
    manifest_of,
    page_of,
    ranking_of,
    read_rows,
    texts,
    write_rows,
)

has_datasketch = pytest.mark.skipif(
    importlib.util.find_spec("datasketch") is None, reason="needs: pip install -e '.[dedup]'"
)


def test_exact_duplicates_ignore_case_and_white_space():
    rows = ["One two.", "three", " one\n TWO.", "Three", "one two", Example("two.", "one")]
    assert deduplicate_exact(rows).tolist() == [0, 1, 4, 5]
    assert deduplicate_exact([]).tolist() == []


def calls(name):
    told = [{"function": {"name": name}}]
    asks = {"role": "user", "content": "Do it"}
    return Example([asks, {"role": "assistant", "content": None, "tool_calls": told}])


def said(*roles):
    return Example([{"role": role, "content": "Hi"} for role in roles])


@pytest.mark.parametrize(
    "rows",
    [
        [calls("lights_on"), calls("lights_off")],
        [Example("three", "one two"), Example("two three", "one")],
        [said("user", "assistant"), said("assistant", "user")],
        [said("user"), said("user")._replace(tools=[{"name": "lights_on"}])],
    ],
)
def test_rows_that_differ_in_anything_that_counts_are_no_exact_copies(rows):
    assert deduplicate_exact([*rows, *rows]).tolist() == [0, 1]


ASKS, SAYS = {"role": "user", "content": "a b"}, {"role": "assistant", "content": "c d"}


@pytest.mark.parametrize(
    "held_out",
    [
        {"messages": [ASKS, SAYS]},
        {"question": "A b", "answer": "c d"},
        {"prompt": [ASKS], "completion": [SAYS]},
        {"prompt": "a b", "completion": "c d"},
        {"system": "Be kind.", "question": "a b", "answer": "c d"},
        {"text": "a b c d"},
    ],
    ids=str,
)
def test_a_test_row_is_told_in_any_shape(held_out):
    rows = [{"messages": [ASKS, SAYS]}, {"messages": [SAYS, ASKS]}, {"messages": [ASKS]}]
    rows, against = examples_of(rows), examples_of([held_out])
    for copies in ("none", "exact"):
        assert unique(rows, copies, against=against).tolist() == [1, 2]


@has_datasketch
def test_rows_without_letters_are_compared_as_they_are():
    rows = ["!!! ???", "+ - +", "!!! ???", "*** ***"]
    assert deduplicate_near(rows).tolist() == [0, 1, 3]


@has_datasketch
def test_the_first_of_connected_rows_is_kept():
    a = "The keeper of the lighthouse carried a lantern down to the harbour"
    rows = ["something else entirely", a, a + " wall", "", a + " wall at night!", a.upper()]
    assert deduplicate_near(rows, seed=3).tolist() == [0, 1, 3]
    assert deduplicate_near(rows, threshold=1.0).tolist() == [0, 1, 2, 3, 4]
    assert deduplicate_near([]).tolist() == []


@pytest.mark.parametrize("threshold", [0.0, 1.1, -1])
def test_thresholds_out_of_range_are_named(threshold):
    with pytest.raises(PoolError, match="threshold must be above 0"):
        deduplicate_near(["a"], threshold)


def test_a_missing_datasketch_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(PoolError, match=r"pip install 'fisher-jax\[dedup\]'"):
        deduplicate_near(["a"])


@has_datasketch
def test_progress_counts_the_rows():
    seen = []
    deduplicate_near(["one two", "three", "one two"], on_progress=seen.append)
    assert seen == [1, 3]


@pytest.mark.parametrize("how", ["exact", pytest.param("near", marks=has_datasketch)])
def test_select_leaves_copies_out(tmp_path, run, llama, how):
    rows = texts()
    plain = write_rows(tmp_path / "plain.jsonl", [{"text": row} for row in rows])
    rows.insert(2, rows[0].upper() + " ")  # of letters, for which the model has no token
    rows.insert(5, rows[1])
    pool = write_rows(tmp_path / "pool.jsonl", [{"text": row} for row in rows])
    options = ("--model", llama, "--fraction", 0.5)
    assert run(plain, "-o", tmp_path / "plain_out.jsonl", *options)[0] == 0
    out = tmp_path / "out.jsonl"
    code, messages = run(pool, "-o", out, *options, "--deduplicate", how)
    assert code == 0
    assert f"2 {how} copies were dropped." in messages
    assert f"2 {how} copies were dropped." in page_of(out)
    facts = manifest_of(out)["result"]
    assert (facts["dropped_copies"], facts["rows"]) == (2, len(rows))
    kept = [i for i in range(len(rows)) if i not in (2, 5)]
    of_plain, of_pool = ranking_of(tmp_path / "plain_out.jsonl"), ranking_of(out)
    assert of_pool["index"] == [kept[i] for i in of_plain["index"]]
    assert of_pool["gain"] == of_plain["gain"]
    assert [row["text"] for row in read_rows(out)] == [rows[i] for i in of_pool["index"]]


def test_copies_that_stay_are_counted(tmp_path, run, llama):
    rows = [*texts()[:3], texts()[0], texts()[1] + " "]
    pool = write_rows(tmp_path / "pool.jsonl", [{"text": row} for row in rows])
    code, messages = run(pool, "-o", tmp_path / "o.jsonl", "--model", llama, "--n-samples", 1)
    assert code == 0
    assert "2 rows repeat an earlier one: exact deduplication" in messages
    assert "2 rows repeat an earlier one" in page_of(tmp_path / "o.jsonl")


def test_rows_with_nothing_to_predict_are_named_by_their_own_lines(tmp_path, llama, refused):
    rows = [texts()[0], texts()[0], *texts()[1:3], ""]
    pool = write_rows(tmp_path / "pool.jsonl", [{"text": row} for row in rows])
    argv = [pool, "-o", tmp_path / "out.jsonl", "--model", llama, "--n-samples", 1]
    refused([*argv, "--deduplicate", "exact"], ["1 row(s)", "line 5"])
