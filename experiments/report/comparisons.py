"""One table of a rule against its opponents, corrected for how many are compared."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.report.language_tables import Table
from experiments.report.statistics import Estimate, Paired, group, holm, matching, paired
from experiments.run.results import Row

LEVEL = 0.05


class Comparison(NamedTuple):
    """A rule less an opponent at one point of the grid; `p` is corrected by Holm, NaN untested."""

    opponent: str
    where: Row
    found: Paired
    p: float


def comparisons(
    rows: Sequence[Row], rule: str, opponents: Sequence[str], key: str, metric: str = "held_out_nll"
) -> list[Comparison]:
    """All differences of one family: every opponent, value of `key`, kind of budget and n."""
    cells = [
        (opponent, {key: value, "equal": equal, "n": n})
        for value, equal, n in group(rows, key, "equal", "n")
        for opponent in opponents
    ]
    found = [
        paired(
            matching(rows, selector=rule, **where), matching(rows, selector=name, **where), metric
        )
        for name, where in cells
    ]
    corrected = holm([of.p for of in found])
    return [
        Comparison(opponent, where, of, p)
        for (opponent, where), of, p in zip(cells, found, corrected, strict=True)
    ]


def compared(family: Sequence[Comparison], rule: str, key: str) -> Table:
    """A line an opponent, kind of budget and n; a column a value of `key`; bold is below 5%.

    Nats a token, the rule less the opponent. Fewer than five replicates have no interval.
    """
    columns = list(dict.fromkeys(of.where[key] for of in family))
    points = sorted({(of.where["equal"], of.where["n"]) for of in family})
    lines = []
    for opponent in dict.fromkeys(of.opponent for of in family):
        for equal, n in points:
            of_point = {
                of.where[key]: cell(of)
                for of in family
                if (of.opponent, of.where["equal"], of.where["n"]) == (opponent, equal, n)
            }
            texts = [of_point.get(value, "not run") for value in columns]
            lines.append([opponent, f"equal {equal}, n = {n}", *texts])
    return [f"{rule} less", "at", *map(str, columns)], lines


def cell(of: Comparison) -> str:
    """A difference with what is known of it."""
    mean, half, _, replicates = of.found
    if replicates == 0:
        return "not run"
    if np.isnan(half):
        return f"{mean:+.3f} ({replicates} replicate{'s' * (replicates > 1)}, no interval)"
    text = f"{mean:+.3f} ± {half:.3f}"
    return f"**{text}**" if of.p < LEVEL else text


def forest(family: Sequence[Comparison], key: str) -> dict[str, dict[str, Estimate]]:
    """The differences as `figures.dots` draws them: a panel a value of `key`, a line a point."""
    panels: dict[str, dict[str, Estimate]] = {}
    for of in family:
        if of.found.replicates:
            at = f"{of.opponent}, equal {of.where['equal']}, n = {of.where['n']}"
            panels.setdefault(str(of.where[key]), {})[at] = Estimate(of.found.mean, of.found.half)
    return panels
