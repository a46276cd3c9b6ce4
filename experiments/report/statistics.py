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


class Noise(NamedTuple):
    """What blurs a difference within replicates, nats a token (or the metric's unit).

    Attributes:
        training: standard deviation of one training's metric, the rows being the same: over orders
            and starts, pooled over cells.
        replicate: of a cell's mean over its trainings less the other's, over replicates; this
            holds the noise of training that is left in the means.
        cells: that the first is pooled over.
    """

    training: float
    replicate: float
    cells: int


def noise(rows: Sequence[Row], others: Sequence[Row], metric: str) -> Noise:
    """Of rows that have each training's metric in `of_training`, and of their opponents.

    Raises:
        ValueError: no row has two trainings.
    """
    spreads = [
        np.var([of[metric] for of in row["of_training"]], ddof=1)
        for row in rows
        if len(row.get("of_training", [])) > 1
    ]
    if not spreads:
        raise UserError("no row has two trainings: run with trainings=2 or more")
    a, b = by_replicate(rows, metric), by_replicate(others, metric)
    paired = [a[r] - b[r] for r in sorted(a.keys() & b.keys())]
    spread = float(np.std(paired, ddof=1)) if len(paired) > 1 else float("nan")
    return Noise(float(np.sqrt(np.mean(spreads))), spread, len(spreads))


def replicates_for(difference: float, sd: float, most: int = 10_000) -> int | None:
    """The fewest replicates whose 95% t-interval has a half width below `difference`.

    `t(0.975, R - 1) sd / sqrt(R) < difference`; None above `most`.
    """
    for n in range(2, most + 1):
        if special.stdtrit(n - 1, 0.975) * sd / np.sqrt(n) < difference:
            return n
    return None


class Paired(NamedTuple):
    """A mean difference within replicates, its 95% interval's half width, and Student's p.

    Half and p are NaN below `LEAST_REPLICATES`: so few tell nothing.
    """

    mean: float
    half: float
    p: float
    replicates: int


LEAST_REPLICATES = 5


def paired(rows: Sequence[Row], others: Sequence[Row], metric: str) -> Paired:
    """First less second, of replicates that both have."""
    a, b = by_replicate(rows, metric), by_replicate(others, metric)
    x = np.array([a[r] - b[r] for r in sorted(a.keys() & b.keys())])
    if len(x) < LEAST_REPLICATES:
        nan = float("nan")
        return Paired(float(x.mean()) if len(x) else nan, nan, nan, len(x))
    mean, half = estimate(x)
    se = x.std(ddof=1) / np.sqrt(len(x))
    p = 2 * special.stdtr(len(x) - 1, -abs(mean) / se) if se > 0 else float(mean == 0)
    return Paired(mean, half, float(p), len(x))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down p-values of one family of tests: all below alpha may be rejected together.

    The k-th smallest of m is `max_{j <= k} min(1, (m - j + 1) p_(j))`; NaN stays and is no test.
    """
    p_K = np.asarray(p, np.float64)
    tests = np.flatnonzero(~np.isnan(p_K))
    order = tests[np.argsort(p_K[tests], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted = p_K.copy()
    adjusted[order] = np.maximum.accumulate(np.minimum(1, factors * p_K[order]))
    return adjusted.tolist()
