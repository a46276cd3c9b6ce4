"""A damaged folder of results is told by file and line."""

import gzip
import json
import re

import pytest

from experiments.language.options import Options
from experiments.run.kept import options_as, read_rows
from experiments.run.results import Results

ROW = {"setting": {}, "selector": "uniform", "x": 0.5}
OPTIONS = {"a": 1, "budgets": [4, 8]}


def resumed(folder):
    return Results(
        folder, OPTIONS, False, lambda row: [row["setting"], row["selector"]], ("budgets",)
    )


@pytest.fixture
def folder(tmp_path):
    """Two rows, their options and what made them."""
    resumed(tmp_path).add([ROW, ROW])
    assert len(resumed(tmp_path).rows) == 2
    return tmp_path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("results.jsonl", '{"setting": {}, "sel', "line 1 is damaged"),
        ("results.jsonl", f"{json.dumps(ROW)}\n\n", "line 2 is damaged"),
        ("results.jsonl", "[" * 100_000, "line 1 is damaged"),
        ("results.jsonl", "\x00", "line 1 is damaged"),
        ("results.jsonl", "[1]", "line 1 is no row of results"),
        ("results.jsonl", '{"setting": 3}', "line 1 is no row of results"),
        ("results.jsonl", '{"setting": {}}', "has a row without 'selector'"),
        ("config.yaml", "", "holds no options"),
        ("config.yaml", "a: [", "can't be read as options"),
        ("config.yaml", "a: ${b", "can't be read as options"),
        ("config.yaml", "- a", "holds no options"),
        ("config.yaml", "a: 1\nbudgets: 4", "results of other options"),
        ("provenance.json", "", "can't be read as JSON"),
        ("provenance.json", "[]", "is no JSON object"),
    ],
)
def test_damage_is_told_with_its_place_and_nothing_is_changed(name, content, message, folder):
    (folder / name).write_text(content)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match=f"{re.escape(str(folder))}.*{message}"):
        resumed(folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_cut_archive_is_told(tmp_path):
    path = tmp_path / "results.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(ROW).encode()))
    assert read_rows(path) == [ROW]
    for content in (path.read_bytes()[:-9], b"no archive"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(f"{path} is damaged")):
            read_rows(path)


def test_options_of_another_experiment_are_told(tmp_path):
    (tmp_path / "config.yaml").write_text("colour: red")
    with pytest.raises(ValueError, match=r"another experiment.*colour"):
        options_as(tmp_path / "config.yaml", Options)
