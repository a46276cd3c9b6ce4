"""Results of the suite: a line a case, from which it goes on and of which the table is made."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from faults.case import Case, Trial
from fisher_jax.util.provenance import provenance


class Result(NamedTuple):
    """What a case found."""

    campaign: str
    kind: str
    name: str
    tried: int
    faults: list[str]
    seconds: float
    seed: int = 0
    commit: str = ""  # of the code that was tried, where there is one

    @property
    def case(self) -> tuple[str, str, int]:
        """Which case it is of."""
        return self.campaign, self.name, self.seed


def run_case(campaign: str, case: Case, seed: int, clock: Callable[[], float]) -> Result:
    """Its result; what it raises itself is a fault too."""
    trial, begin = Trial(), clock()
    with trial.attempt(case.name):
        case.run(trial)
    tried = trial.tried - 1  # less the case itself
    seconds = round(clock() - begin, 2)
    return Result(campaign, case.kind, case.name, tried, trial.faults, seconds, seed, _commit())


@functools.cache
def _commit() -> str:
    return provenance().get("git_commit", "")


def append(path: Path, result: Result) -> None:
    """One line more, in the place of one that a kill cut off."""
    with path.open("ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json.dumps(result._asdict()).encode() + b"\n")


def read(path: Path) -> list[Result]:
    """All of a file; a last line that a kill cut off is left out."""
    if not path.exists():
        return []
    whole, _, _ = path.read_text().rpartition("\n")
    return [Result(**json.loads(line)) for line in whole.splitlines()]


def latest(results: list[Result]) -> list[Result]:
    """One of each case: what failed is tried again."""
    return [*{result.case: result for result in results}.values()]


def table(results: list[Result]) -> str:
    """What was tried and what failed, a row a kind, sorted, as Markdown."""
    rows: dict[tuple[str, str], list[int]] = {}
    for result in results:
        counts = rows.setdefault((result.campaign, result.kind), [0, 0])
        counts[0] += result.tried
        counts[1] += len(result.faults)
    total = [sum(column) for column in zip(*rows.values(), strict=True)] or [0, 0]
    lines = [
        [campaign, kind, f"{tried:,}", f"{failed:,}"]
        for (campaign, kind), (tried, failed) in sorted(rows.items())
    ]
    lines.append(["all", "", f"{total[0]:,}", f"{total[1]:,}"])
    head = ["campaign", "what", "tried", "failed"]
    return "".join(
        f"| {' | '.join(line)} |\n" for line in [head, ["---", "---", "---:", "---:"], *lines]
    )
