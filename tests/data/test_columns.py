"""Columns that say of which kind a row is."""

import numpy as np

from fisher_jax.data.columns import MOST_VALUES, kinds
from fisher_jax.data.pool_file import pool_of, read_pool
from tests.helpers.cli import write_rows


def test_columns_of_few_short_values_are_told():
    rows = [
        {"text": f"row {i}", "source": "ab"[i % 2], "one": "same", "long": "x" * (61 + i % 2)}
        | {"id": i, "list": [i % 2], "flag": bool(i % 3), "score": i % 2 / 2}
        for i in range(2 * MOST_VALUES)
    ]
    rows[4]["source"] = None
    some = np.array([0, 1, 4])
    assert kinds(pool_of(rows), np.arange(len(rows))).keys() == {"source", "flag"}
    told = kinds(pool_of(rows), some)
    assert told["source"] == ["a", "b", "(none)"]
    assert told["id"] == ["0", "1", "4"]  # few among few rows
    assert "one" not in told and "list" not in told and "score" not in told


def test_rows_of_several_files_tell_their_file(tmp_path):
    paths = [write_rows(tmp_path / name, [{"text": "a"}]) for name in ("a.jsonl", "b.jsonl")]
    pool = read_pool(paths)
    assert kinds(pool, np.arange(2)) == {"file": [str(path)[-60:] for path in paths]}
