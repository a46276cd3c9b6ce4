"""A damaged folder of results is told by file and line."""

import json
import re

import pyarrow as pa
import pytest
from pyarrow import parquet

from experiments.language.noise import NEEDED
from experiments.language.options import Options
from experiments.report.compare import compare
from experiments.run.kept import having, options_as
from experiments.run.packed import pack, unpack
from experiments.run.results import Results
from fisher_jax.util.errors import UserError

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
        ("results.jsonl", '{"setting": {}, "n": "4"}', "line 1 is no .*, its n is '4': remove"),
        ("results.jsonl", '{"setting": {}, "selector": []}', "line 1 is no .*, its selector is"),
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


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"replicate": None}, "row 2 of its results has no replicate"),
        (
            {"mean_logit": "small"},
            "row 2 of its results has mean_logit 'small', which is no number",
        ),
    ],
)
def test_rows_that_can_not_be_drawn_are_told(changed, message, folder, tmp_path):
    row = ROW | {"replicate": 0, "selector": "uniform", "n": 4, "mean_logit": 0.5}
    bad = {k: v for k, v in (row | changed).items() if v is not None}
    lines = [json.dumps(row), json.dumps(bad)]
    (folder / "results.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=f"{re.escape(str(folder))}: {message}"):
        list(compare([folder], tmp_path / "figures"))
    assert not (tmp_path / "figures").exists()
    with pytest.raises(UserError, match="row 1 of its results has no equal: remove the line"):
        having([row, bad], folder, *NEEDED)


def test_a_cut_table_is_told(tmp_path):
    path = tmp_path / "results.parquet"
    rows = [ROW | {"x": x} for x in (0.5, 2.62598e29, 1.2345e-25, -3.4e-38, 0.0)]
    pack(rows, path, study="x")
    assert unpack(path) == rows
    table = parquet.read_table(path)
    no_text = pa.array([b"\xf0\x80"] * len(rows)).view(pa.string())
    place = table.column_names.index("selector")
    parquet.write_table(table.set_column(place, "selector", no_text), path.with_name("no_text"))
    whole = path.read_bytes()
    for content in (path.with_name("no_text").read_bytes(), whole[:-9], b"no table"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(f"{path} is damaged")):
            unpack(path)
    parquet.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(ValueError, match="no run's"):
        unpack(path)


def test_options_of_another_experiment_are_told(tmp_path):
    (tmp_path / "config.yaml").write_text("colour: red")
    with pytest.raises(ValueError, match=r"another experiment.*colour"):
        options_as(tmp_path / "config.yaml", Options)
