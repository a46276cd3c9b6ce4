"""From intervals to words: does a claim hold?"""

from collections.abc import Iterable
from typing import NamedTuple

from experiments.report.statistics import Estimate, rejected

HOLDS, BY_LENGTH, NOT, NOT_SHOWN = "holds", "only by length", "not", "not shown"
Points = dict[str, Estimate]  # where: difference to the opponent, below zero where it is better


class Differing(NamedTuple):
    """Where the difference is below zero, and where above, after Holm's correction."""

    better: list[str]
    worse: list[str]


def told(points: Points) -> Differing:
    """Which of these differences are told apart from zero, together at 5%."""
    differing = [
        (where, e.mean)
        for (where, e), apart in zip(
            points.items(), rejected([e.p for e in points.values()]), strict=True
        )
        if apart
    ]
    return Differing(
        [w for w, mean in differing if mean < 0], [w for w, mean in differing if mean > 0]
    )


def beats(tokens: Points, examples: Points | None = None) -> str:
    """The verdict on "it is better than its opponent".

    It holds where it does so at equal tokens; by length where it does so at equal examples alone.
    """
    at_tokens = told(tokens)
    but = f", worse {_listed(at_tokens.worse)}" if at_tokens.worse else ""
    if len(at_tokens.better) == len(tokens):
        return HOLDS
    by_length = examples and len(told(examples).better) == len(examples)
    if at_tokens.better:
        where = f"{_listed(at_tokens.better)}{but or ' only'}"
        return f"{BY_LENGTH}; at equal tokens {where}" if by_length else f"{HOLDS} {where}"
    if by_length:
        return BY_LENGTH
    return f"{NOT}: worse {_listed(at_tokens.worse)}" if at_tokens.worse else NOT_SHOWN


def at_most(estimates: Iterable[Estimate], limit: float) -> str:
    """The verdict on "none is above the limit": it holds where no 95% interval reaches above."""
    estimates = [*estimates]
    if all(e.mean + e.half <= limit for e in estimates):
        return HOLDS
    return NOT if any(e.mean - e.half > limit for e in estimates) else NOT_SHOWN


def near(e: Estimate, value: float) -> bool:
    """Whether a 95% interval includes a value."""
    return abs(e.mean - value) <= e.half


def _listed(where: list[str]) -> str:
    return " and ".join([", ".join(where[:-1]), where[-1]] if len(where) > 1 else where)
