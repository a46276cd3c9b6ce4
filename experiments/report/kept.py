"""Runs as this repository keeps them: results/STUDY/EXPERIMENT, their rows in one Parquet file.

A column an option that the grid varies, and one a measured value; floats of 6 digits, as float32.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from omegaconf import OmegaConf
from pyarrow import parquet

from experiments.judging.main import JUDGED
from experiments.language.main import MANIFEST
from experiments.language.picks import PICKS
from experiments.run.conf import CONF
from experiments.run.results import PROVENANCE, RESOLVED, RESULTS, Row, read_rows, settings
from experiments.run.sweeps import jobs_of, read_sweep
from fisher_jax.util.files import replacing

ROOT = CONF.parent
KEPT = ROOT / "results"
ROWS = "results.parquet"
STREAMS = "51f13089aad3af78cc9ec9cdf60411eb8ecd4d0d"  # gave each rule random numbers of its own
STUDIES = ("synthetic", "words", "language")


class Kept(NamedTuple):
    """A run: its rows, its options, and by what it was made."""

    rows: list[Row]
    options: Any
    facts: Row


def read_run(folder: Path) -> Kept:
    """A kept run, one that an experiment wrote, or a sweep's jobs together.

    Raises:
        UserError: the folder has no results.
    """
    if (folder / ROWS).exists():
        options = OmegaConf.load(folder / RESOLVED)
        rows = _rows(parquet.read_table(folder / ROWS), list(options.grid))
    elif (folder / RESULTS).exists():
        options, rows = OmegaConf.load(folder / RESOLVED), read_rows(folder / RESULTS)
    elif jobs_of(folder):
        return Kept(*read_sweep(folder))
    else:
        raise UserError(f"{folder} has no {RESULTS}, no {ROWS} and no jobs that have: run it first")
    return Kept(rows, options, json.loads((folder / PROVENANCE).read_text()))


def keep(run: Kept, folder: Path) -> None:
    """Write a run into its folder of results/."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"own_streams": has_streams(run.facts)} | run.facts
    with replacing(folder / RESOLVED) as temporary:
        temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(run.options)))
    with replacing(folder / PROVENANCE) as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n")
    table = _table(run.rows, study=folder.parent.name, experiment=folder.name)
    plain = [c.name for c in table.schema if c.type == pa.float32()]
    lists = [c.name for c in table.schema if c.type == pa.list_(pa.float32())]
    split = [*plain, *(f"{name}.list.element" for name in lists)]
    with replacing(folder / ROWS) as temporary:
        parquet.write_table(
            table,
            temporary,
            compression="zstd",
            compression_level=19,
            use_dictionary=[c.name for c in table.schema if c.name not in split],
            use_byte_stream_split=split,
        )


def collect(outputs: Path) -> Iterator[str]:
    """Take the finished runs of the committed experiments over; what was done with each, a line."""
    for study in STUDIES:
        for config in sorted((CONF / study / "experiment").glob("*.yaml")):
            source = outputs / study / config.stem
            if config.stem == "smoke":
                continue
            if not (source / RESULTS).exists():
                source = outputs / study / "multirun" / config.stem
                if not jobs_of(source):
                    continue
            target, run = KEPT / study / config.stem, read_run(source)
            if missing := _missing(run):
                yield f"{study}/{config.stem}: left out, {missing} of its settings are not finished"
                continue
            keep(run, target)
            for file in (MANIFEST, JUDGED, PICKS):
                if (source / file).exists():
                    shutil.copy(source / file, target / file)
            if facts := _facts_of_jobs(source):
                (target / MANIFEST).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
            yield f"{study}/{config.stem}: taken over"


def has_streams(facts: Row) -> bool:
    """Whether the run was made after every rule had a random stream of its own.

    By the history of this repository, which has the run's commit.
    """
    asked = ["git", "merge-base", "--is-ancestor", STREAMS, str(facts.get("git_commit"))]
    return subprocess.run(asked, cwd=ROOT, capture_output=True).returncode == 0


def _missing(run: Kept) -> int:
    """How many settings of the grid have no rows."""
    grid = OmegaConf.to_container(OmegaConf.create(run.options)["grid"])
    assert isinstance(grid, dict)
    done = [row["setting"] for row in run.rows]
    return sum(setting not in done for setting in settings(grid))


def _facts_of_jobs(sweep: Path) -> Row:
    return {
        f"{job.name}/{where}": facts
        for job in jobs_of(sweep)
        if (job / MANIFEST).exists()
        for where, facts in json.loads((job / MANIFEST).read_text()).items()
    }


def _table(rows: list[Row], **constant: str) -> pa.Table:
    flat = [
        constant | row["setting"] | {k: v for k, v in row.items() if k != "setting"} for row in rows
    ]
    names = dict.fromkeys(name for row in flat for name in row)
    table = pa.table({name: [row.get(name) for row in flat] for name in names})
    options = {*rows[0]["setting"]}
    types = [c.type if c.name in options else _single(c.type) for c in table.schema]
    return table.cast(pa.schema(list(zip(table.column_names, types, strict=True))))


def _single(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.list_(_single(kind.value_type))
    return pa.float32() if kind == pa.float64() else kind


def _rows(table: pa.Table, options: list[str]) -> list[Row]:
    """Rows as an experiment wrote them: what a row lacks is null in the table."""
    table = table.drop_columns(["study", "experiment"])
    for k, column in enumerate(table.schema):
        table = table.set_column(k, column.name, _exact(table[k].combine_chunks()))
    made = []
    for flat in table.to_pylist():
        own = {k: _there(v) for k, v in flat.items() if k not in options and v is not None}
        made.append({"setting": {k: flat[k] for k in options}} | own)
    return made


def _exact(column: pa.Array) -> pa.Array:
    """The decimals of six digits that float32 stands for, as doubles."""
    if pa.types.is_list(column.type):
        assert isinstance(column, pa.ListArray)
        values = _exact(column.values)
        return pa.ListArray.from_arrays(column.offsets, values, mask=column.is_null())
    if column.type != pa.float32():
        return column
    x = column.to_numpy(zero_copy_only=False).astype(np.float64)
    with np.errstate(divide="ignore"):
        digits = 5 - np.floor(np.log10(np.abs(x)))
    shift = 10.0 ** np.abs(np.where(np.isfinite(digits), digits, 0))
    decimals = np.where(digits > 0, np.rint(x * shift) / shift, np.rint(x / shift) * shift)
    return pa.array(decimals, mask=np.asarray(column.is_null()))


def _there(value: Any) -> Any:
    """Of a dictionary what a row has."""
    return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value
