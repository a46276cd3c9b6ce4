"""A selection beside uniform draws, at equal examples and at equal tokens."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from fisher_jax.design import log_dets
from fisher_jax.report.measures import Measure, measure_of
from fisher_jax.report.subject import Subject
from fisher_jax.util.excerpt import counted
from fisher_jax.util.progress import OnProgress
from fisher_jax.util.streams import stream

N_DRAWS = 20


class UniformDraws(NamedTuple):
    """log det of uniform draws along a budget, for comparison: mean, lowest and highest."""

    budget: Float[np.ndarray, "P"]
    mean: Float[np.ndarray, "P"]
    low: Float[np.ndarray, "P"]
    high: Float[np.ndarray, "P"]


class Judged(NamedTuple):
    """A `Measure` of the selection, and of uniform draws of as many examples or tokens."""

    measure: Measure
    own: Float[np.ndarray, "_"]
    examples: list[Float[np.ndarray, "_"]]
    tokens: list[Float[np.ndarray, "_"]]

    @property
    def numbers(self) -> tuple[float, float, float]:
        """Of the selection, and means over the draws of as many examples and of as many tokens."""
        whole = self.measure.whole
        as_many_rows, as_many_tokens = (
            float(np.mean([whole(x) for x in draws])) for draws in (self.examples, self.tokens)
        )
        return float(whole(self.own)), as_many_rows, as_many_tokens


@dataclass(frozen=True)
class Comparison:
    """A selection beside uniform draws at equal examples and at equal tokens.

    Attributes:
        examples: log det of draws, along the number of examples.
        tokens: the same along the number of tokens.
        judged: by what the rule wants; None where that is log det itself.
    """

    examples: UniformDraws
    tokens: UniformDraws
    judged: Judged | None = None

    def headline(self, subject: Subject) -> str:
        """The result in a line, by what the rule wants."""
        f = subject.selection.log_det
        what, equal, tokens = f"log det {f:.1f} nats", self.examples.mean[-1], self.tokens.mean[-1]
        numbers = f"{equal:.1f}", f"{tokens:.1f}"
        if (judged := self.judged) is not None:
            own, *draws = judged.numbers
            what, numbers = f"{judged.measure.name} {own:.3g}", [f"{mean:.3g}" for mean in draws]
        return (
            f"{counted(len(subject.selection.ranking), 'example')}, {what}; uniform has "
            f"{numbers[0]} with as many examples and {numbers[1]} with as many tokens"
        )


def compare_with_uniform(subject: Subject, *, on_progress: OnProgress | None = None) -> Comparison:
    """`N_DRAWS` uniform draws, as long in examples or in tokens as the selection."""
    rng, costs = stream(subject.seed, "report"), subject.costs
    n_examples, budget = len(subject.selection.ranking), float(subject.tokens.sum())
    orders = [rng.permutation(len(subject.emb)) for _ in range(N_DRAWS)]
    spent = [np.cumsum(costs[order]) for order in orders]
    n_tokens = [int(np.searchsorted(s, budget)) + 1 for s in spent]  # the last row reaches it
    longest = [order[: max(n_examples, k)] for order, k in zip(orders, n_tokens, strict=True)]
    curves = log_dets(subject.short, longest, subject.ridge, on_progress=on_progress)
    steps = np.arange(1.0, n_examples + 1)
    by_examples = [(steps, curve[:n_examples]) for curve in curves]
    by_tokens = [
        (s[:k].astype(np.float64), curve[:k])
        for s, curve, k in zip(spent, curves, n_tokens, strict=True)
    ]
    judged = None
    if (measure := measure_of(subject)) is not None:
        own = measure.of(subject.selection.ranking)
        examples = [measure.of(order[:n_examples]) for order in orders]
        tokens = [measure.of(order[:k]) for order, k in zip(orders, n_tokens, strict=True)]
        judged = Judged(measure, own, examples, tokens)
    return Comparison(uniform_draws(by_examples), uniform_draws(by_tokens, budget), judged)


def uniform_draws(
    cumulative: list[tuple[np.ndarray, np.ndarray]], limit: float = np.inf, points: int = 200
) -> UniformDraws:
    """Curves (budget spent, log det) of several draws, at the budgets that all of them reach.

    Between two rows of a draw the curve is a straight line; nothing beyond `limit` is shown.
    """
    grid = np.linspace(0, min(limit, *(spent[-1] for spent, _ in cumulative)), points)
    curves = np.stack(
        [np.interp(grid, np.append(0, spent), np.append(0, f)) for spent, f in cumulative]
    )
    return UniformDraws(grid, curves.mean(0), curves.min(0), curves.max(0))
