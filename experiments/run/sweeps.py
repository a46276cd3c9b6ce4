"""Results of a Hydra sweep, as those of one run whose grid holds what its jobs differ in."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from experiments.run.kept import Row, read_facts, read_options, read_rows
from experiments.run.results import GROWING, PROVENANCE, RESOLVED, RESULTS, joined
from fisher_jax.util.errors import UserError

LONGEST = 100  # bytes of a job's folder name; file systems take 255


class Sweep(NamedTuple):
    """All jobs of a sweep together.

    Attributes:
        rows: of all jobs, each once; `setting` also tells what the jobs differ in.
        options: of one run that would give these rows.
        facts: by what the last job's rows were made, and the seconds of all jobs.
    """

    rows: list[Row]
    options: dict[str, Any]
    facts: Row


def job_folder(overrides: str) -> str:
    """A folder name for a job: its overrides, cut and with a hash where they can't be one."""
    name = overrides.replace("/", "_")
    if name == overrides and len(name.encode()) <= LONGEST:
        return name
    digest = hashlib.sha256(overrides.encode()).hexdigest()[:8]
    return f"{name.encode()[: LONGEST - 9].decode(errors='ignore')}-{digest}"


def jobs_of(folder: Path) -> list[Path]:
    """Folders of the jobs that have results, in the sweep's order."""
    return sorted((path.parent for path in folder.glob(f"*/{RESULTS}")), key=_number)


def read_sweep(folder: Path) -> Sweep:
    """The jobs' results.

    A grid's values are joined; of `GROWING` options all jobs' are kept; every other option that
    differs becomes part of the setting and of the grid.

    Raises:
        ValueError: no job has results.
    """
    jobs = jobs_of(folder)
    if not jobs:
        raise UserError(f"{folder} has no job with {RESULTS}: run the sweep first")
    options = [read_options(job / RESOLVED) for job in jobs]
    differing = [k for k in options[0] if any(own.get(k) != options[0][k] for own in options)]
    settings = [k for k in differing if k not in (*GROWING, "grid")]
    whole = dict(options[0])
    for own in options[1:]:
        whole |= {k: joined(whole[k], own[k]) for k in differing if k in GROWING}
    grid: dict[str, list] = {}
    for own in options:
        for key, values in ((own.get("grid") or {}) | {k: [own[k]] for k in settings}).items():
            grid[key] = joined(grid.get(key, []), values)
    rows: dict[str, Row] = {}
    for job, own in zip(jobs, options, strict=True):
        for row in read_rows(job / RESULTS):
            row["setting"] = row["setting"] | {k: own[k] for k in settings}
            at = [row.get(k) for k in ("setting", "replicate", "selector", "equal", "n")]
            rows.setdefault(json.dumps([*at, _draw(row)], sort_keys=True), row)
    return Sweep([*rows.values()], whole | {"grid": grid}, _facts_of(jobs))


def _number(job: Path) -> tuple[int, str]:
    told = job / ".hydra" / "hydra.yaml"
    options = OmegaConf.create(read_options(told) if told.exists() else {})
    number = OmegaConf.select(options, "hydra.job.num")
    return (0 if number is None else number), job.name


def _draw(row: Row) -> Any:
    """Random subsets of one budget are rows of their own."""
    return row if row.get("selector") == "random" else None


def _facts_of(jobs: list[Path]) -> Row:
    facts = [read_facts(job / PROVENANCE) for job in jobs]
    seconds = [own["seconds"] for own in facts if own.get("seconds") is not None]
    whole = {k: v for k, v in facts[-1].items() if k != "seconds"}
    return whole if len(seconds) < len(facts) else whole | {"seconds": round(sum(seconds), 1)}
