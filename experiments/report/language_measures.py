"""What a selection is worth in language: tokens to match, length and content, a bootstrap."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.report.statistics import Estimate, by_replicate, estimate, group
from experiments.run.results import Row

RESAMPLES = 2000


class Match(NamedTuple):
    """How many times as many uniform tokens or rows do as well.

    Attributes:
        log_ratio: mean over replicates.
        above, below: replicates beyond the curve's ends, where the end was taken.
        n: replicates.
    """

    log_ratio: Estimate
    above: int
    below: int
    n: int

    def __str__(self) -> str:
        mean, half, _ = self.log_ratio
        beyond = self.above + self.below
        if self.above and self.below:
            return "beyond the curve on both sides"
        if beyond:
            side = "least" if self.above else "most"
            return f"at {side} {np.exp(mean):.2f} ({beyond} of {self.n} at the end)"
        return f"{np.exp(mean):.2f} ({np.exp(mean - half):.2f} to {np.exp(mean + half):.2f})"


def to_match(rows: Sequence[Row], curve: Sequence[Row], unit: str = "tokens") -> Match:
    """log of (tokens or rows that the curve needs for the same NLL / those of these rows).

    Linear interpolation of the curve in the log of the unit within a replicate.
    """
    ratios, above, below = [], 0, 0
    for (replicate,), own in group(curve, "replicate").items():
        points = sorted((r[unit], r["held_out_nll"]) for r in own)
        x, y = np.log([p[0] for p in points]), np.array([p[1] for p in points])
        y = np.minimum.accumulate(y)[::-1]  # ascending, as np.interp wants it
        for row in (r for r in rows if r["replicate"] == replicate):
            loss = row["held_out_nll"]
            ratios.append(np.interp(loss, y, x[::-1]) - np.log(row[unit]))
            above, below = above + (loss < y[0]), below + (loss > y[-1])
    return Match(estimate(ratios), int(above), int(below), len(ratios))


def length_and_content(
    rows: Sequence[Row], uniform: Sequence[Row], curve: Sequence[Row]
) -> tuple[Estimate, Estimate]:
    """The advantage over uniform at equal examples, split in two (nats a token, positive is good).

    Length: what uniform gains by as many tokens as the selection has (interpolated in log tokens);
    content: what is left.
    """
    length, content = [], []
    of_uniform = by_replicate(uniform, "held_out_nll")
    for row in rows:
        points = sorted(
            (r["tokens"], r["held_out_nll"]) for r in curve if r["replicate"] == row["replicate"]
        )
        x, y = np.log([p[0] for p in points]), [p[1] for p in points]
        same_tokens = float(np.interp(np.log(row["tokens"]), x, y))
        length.append(of_uniform[row["replicate"]] - same_tokens)
        content.append(same_tokens - row["held_out_nll"])
    return estimate(length), estimate(content)


def two_level(rows: Sequence[Row], others: Sequence[Row], seed: int = 0) -> tuple[float, float]:
    """95% percentiles of the difference in nats a token, replicates and test rows resampled.

    Over all tokens, of whatever domain.
    """
    a, b, counts = (
        by_replicate(some, key)
        for some, key in ((rows, "test_nll"), (others, "test_nll"), (rows, "test_tokens"))
    )
    parts = [  # of a replicate, and a test row a line: difference in nats, and its tokens
        np.transpose([np.subtract(a[r], b[r]), counts[r]]) for r in sorted(a.keys() & b.keys())
    ]
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(RESAMPLES):
        drawn = [parts[k] for k in rng.integers(len(parts), size=len(parts))]
        sums = [d[rng.integers(len(d), size=len(d))].sum(axis=0) for d in drawn]
        means.append(np.mean([loss / count for loss, count in sums]))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def common_rows(rows: Sequence[Row], others: Sequence[Row]) -> float:
    """Share of the rows that both have chosen, `2 |AB| / (|A| + |B|)`, mean over replicates."""
    a, b = by_replicate(rows, "chosen"), by_replicate(others, "chosen")
    return float(
        np.mean([2 * len({*a[k]} & {*b[k]}) / (len(a[k]) + len(b[k])) for k in a.keys() & b.keys()])
    )


def tokens_a_row(rows: Sequence[Row]) -> float:
    """Mean over replicates."""
    return float(np.mean([r["tokens"] / r["rows"] for r in rows]))
