"""Runs as this repository keeps them: results/STUDY/EXPERIMENT, with what made them."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from experiments.judging.main import CALIBRATED, JUDGED, REALNESS
from experiments.language.main import MANIFEST
from experiments.language.noise import NOISE
from experiments.language.picks import PICKS
from experiments.run.conf import CONF
from experiments.run.packed import PACKED, pack, read_folder
from experiments.run.results import PROVENANCE, RESOLVED, RESULTS, Row, settings
from experiments.run.sweeps import jobs_of, read_sweep
from fisher_jax.util.errors import UserError
from fisher_jax.util.files import replacing

ROOT = CONF.parent
KEPT = ROOT / "results"
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
    rows = read_folder(folder)
    if not rows and jobs_of(folder):
        return Kept(*read_sweep(folder))
    if not rows:
        raise UserError(
            f"{folder} has no {RESULTS}, no {PACKED} and no jobs that have: run it first"
        )
    options = OmegaConf.load(folder / RESOLVED)
    return Kept(rows, options, json.loads((folder / PROVENANCE).read_text()))


def keep(run: Kept, folder: Path) -> None:
    """Write a run into its folder of results/."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = run.facts | {"own_streams": has_streams(run.facts)}
    with replacing(folder / RESOLVED) as temporary:
        temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(run.options)))
    with replacing(folder / PROVENANCE) as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n")
    pack(run.rows, folder / PACKED, study=folder.parent.name, experiment=folder.name)


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
            if study != "language" and (missing := _missing(run)):  # its pages tell what is missing
                yield f"{study}/{config.stem}: left out, {missing} of its settings are not finished"
                continue
            keep(run, target)
            for file in (MANIFEST, JUDGED, CALIBRATED, REALNESS, PICKS, NOISE):
                if (source / file).exists():
                    shutil.copy(source / file, target / file)
                else:  # what an earlier run's texts were judged to be
                    (target / file).unlink(missing_ok=True)
            if facts := _facts_of_jobs(source):
                (target / MANIFEST).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
            yield f"{study}/{config.stem}: taken over"


def has_streams(facts: Row) -> bool:
    """Whether all of the run was made after every rule had a random stream of its own.

    By the history of this repository, which has the run's commits.
    """
    asked = ["git", "merge-base", "--is-ancestor", STREAMS]
    return facts.get("own_streams") is not False and all(
        subprocess.run([*asked, str(commit)], cwd=ROOT, capture_output=True).returncode == 0
        for commit in facts.get("git_commits", [facts.get("git_commit")])
    )


def _missing(run: Kept) -> int:
    """How many settings of the grid have no rows."""
    options: Any = OmegaConf.to_container(OmegaConf.create(run.options))
    done = [row["setting"] for row in run.rows]
    return sum(setting not in done for setting in settings(options["grid"]))


def _facts_of_jobs(sweep: Path) -> Row:
    return {
        f"{job.name}/{where}": facts
        for job in jobs_of(sweep)
        if (job / MANIFEST).exists()
        for where, facts in json.loads((job / MANIFEST).read_text()).items()
    }
