"""Means with 95% intervals, paired ratios and log-log slopes over replicates."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from experiments.run.results import Row
from fisher_jax.util.errors import UserError


class Estimate(NamedTuple):
    """A mean over replicates and the half width of its 95% t-interval (NaN for one replicate)."""

    mean: float
    half: float

    def __str__(self) -> str:
        return f"{self.mean:.3g} ± {self.half:.1g}"

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return abs(self.mean) > self.half


def estimate(values: Iterable[float]) -> Estimate:
    """Student's interval for a mean."""
    x = np.asarray(list(values), np.float64)
    if len(x) < 2:
        return Estimate(float(x.mean()), float("nan"))
    t = special.stdtrit(len(x) - 1, 0.975)
    return Estimate(float(x.mean()), float(t * x.std(ddof=1) / np.sqrt(len(x))))


def by_replicate(rows: Sequence[Row], metric: str) -> dict[int, Any]:
    """replicate: value, for the rows of one curve point.

    Raises:
        ValueError: a replicate has several rows, of several points or settings.
    """
    values = {row["replicate"]: row[metric] for row in rows}
    if len(values) < len(rows):
        raise UserError(f"{len(rows)} rows of {len(values)} replicates: choose one point")
    return values


def group(rows: Iterable[Row], *keys: str) -> dict[tuple, list[Row]]:
    """Rows by the values of some keys (of the row or of its setting), in order of appearance."""
    groups: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row.get(k, row["setting"].get(k)) for k in keys)].append(row)
    return dict(groups)


def matching(rows: Iterable[Row], **wanted: object) -> list[Row]:
    """Rows with these values, of the row itself or of its setting."""
    return [r for r in rows if all(r.get(k, r["setting"].get(k)) == v for k, v in wanted.items())]


def log_ratio(rows: Sequence[Row], others: Sequence[Row], metric: str) -> Estimate:
    """Mean log of the ratio within replicates, first to second."""
    a, b = by_replicate(rows, metric), by_replicate(others, metric)
    return estimate(np.log(a[r] / b[r]) for r in sorted(a.keys() & b.keys()))


def percent(e: Estimate) -> Estimate:
    """A mean log-ratio as a percentage above 1."""
    return Estimate(100 * np.expm1(e.mean), 100 * np.exp(e.mean) * e.half)


def slope(rows: Sequence[Row], x: str, metric: str) -> Estimate:
    """Least-squares slope of log metric against log x in each replicate, and their interval."""
    slopes = []
    for own in group(rows, "replicate").values():
        at = [float(r.get(x, r["setting"].get(x))) for r in own]
        slopes.append(np.polyfit(np.log(at), np.log([r[metric] for r in own]), 1)[0])
    return estimate(slopes)
