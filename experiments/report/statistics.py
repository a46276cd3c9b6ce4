"""Means with 95% intervals over replicates, paired within them, and Holm's correction."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from experiments.run.results import Row
from fisher_jax.util.errors import UserError

LEVEL = 0.05


class Estimate(NamedTuple):
    """A mean over replicates with Student's t.

    Attributes:
        mean: over replicates.
        half: half width of the 95% interval; NaN for one replicate.
        p: of the hypothesis that the mean is zero, two-sided; NaN for one replicate.
    """

    mean: float
    half: float
    p: float = float("nan")

    def __str__(self) -> str:
        return f"{self.mean:.3g} ± {self.half:.1g}"


def estimate(values: Iterable[float]) -> Estimate:
    """Student's interval for a mean."""
    x = np.asarray(list(values), np.float64)
    mean = float(x.mean())
    if len(x) < 2:
        return Estimate(mean, float("nan"))
    error = float(x.std(ddof=1) / np.sqrt(len(x)))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = float(2 * special.stdtr(len(x) - 1, -np.abs(np.float64(mean) / error)))
    return Estimate(mean, float(special.stdtrit(len(x) - 1, 1 - LEVEL / 2)) * error, p)


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


def values_of(rows: Iterable[Row], key: str) -> list[Any]:
    """The values of a key, each once, in order of appearance."""
    return [value for (value,) in group(rows, key)]


def matching(rows: Iterable[Row], **wanted: object) -> list[Row]:
    """Rows with these values, of the row itself or of its setting."""
    return [r for r in rows if all(r.get(k, r["setting"].get(k)) == v for k, v in wanted.items())]


def difference(rows: Sequence[Row], others: Sequence[Row], metric: str) -> Estimate:
    """Mean difference within replicates, first less second."""
    a, b = by_replicate(rows, metric), by_replicate(others, metric)
    return estimate(a[r] - b[r] for r in sorted(a.keys() & b.keys()))


def log_ratio(rows: Sequence[Row], others: Sequence[Row], metric: str) -> Estimate:
    """Mean log of the ratio within replicates, first to second."""
    a, b = by_replicate(rows, metric), by_replicate(others, metric)
    return estimate(np.log(a[r] / b[r]) for r in sorted(a.keys() & b.keys()))


def percent(e: Estimate) -> Estimate:
    """A mean log-ratio as a percentage above 1: of the geometric mean of the ratios."""
    return Estimate(100 * np.expm1(e.mean), 100 * np.exp(e.mean) * e.half, e.p)


def against_uniform(rows: Sequence[Row], metric: str, **point: object) -> dict[str, Estimate]:
    """selector: percent by which its error at one point differs from uniform's, in replicates."""
    of_selector = group(matching(rows, **point), "selector")
    base = of_selector.get(("uniform",), [])
    return {
        name: percent(log_ratio(own, base, metric))
        for (name,), own in of_selector.items()
        if name != "uniform" and base
    }


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


def rejected(p: Sequence[float]) -> list[bool]:
    """Which hypotheses of a family are rejected together at 5%; NaN never is."""
    return [value <= LEVEL for value in holm(p)]
