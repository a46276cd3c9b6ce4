"""Is a judge one? It judges pairs whose better text is known, before any other.

The limits were set before any judge was tried by them; a judge that misses one gives no table.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.judging.judge import Judge, Pair, judge_pairs, tally
from experiments.judging.texts import Texts
from experiments.run.kept import Row

LEAST_RIGHT = 0.8  # of the pairs, ties as half
POSITION_1 = 0.4, 0.6  # of the answers that name the text shown first
KINDS = "real against shuffled", "real against written", "more against less training"


class Known(NamedTuple):
    """Pairs of one kind; A's text is the better one."""

    kind: str
    pairs: list[Pair]


def known_pairs(texts: Texts, setting: str) -> list[Known]:
    """Pairs of known order of a setting, of the kinds that its texts allow.

    Real text is the rest of the sentence whose first words were the prompt; against it stand its
    own words in a random order, and as many words as it has of what uniform's model wrote. More
    training is uniform's largest budget against its smallest.
    """
    rng = np.random.default_rng(0)
    of_uniform = texts.written(setting, "uniform")
    found: dict[str, list[Pair]] = {kind: [] for kind in KINDS}
    for (equal, n), written in of_uniform.items():
        budgets = [size for kind, size in of_uniform if kind == equal]
        for at, (prompt, real, text) in written.items():
            if n == max(budgets) and real.split():
                found[KINDS[0]].append(Pair(prompt, real, shuffled(real, rng)))
                found[KINDS[1]].append(Pair(prompt, real, as_long_as(text, real)))
            less = of_uniform[equal, min(budgets)].get(at)
            if n == max(budgets) > min(budgets) and less is not None:
                found[KINDS[2]].append(Pair(prompt, text, less.text))
    return [Known(kind, pairs) for kind, pairs in found.items() if pairs]


def calibrated(judge: Judge, known: Sequence[Known], corpus: str) -> list[Row]:
    """Its shares of right answers and of first positions, a row a kind."""
    rows = []
    for kind, pairs in known:
        found = tally(judge_pairs(judge, pairs, corpus=corpus))
        right = found.half_ties
        rows.append(
            {"kind": kind, "n_pairs": len(pairs), "right": [*right], "position_1": found.position_1}
            | {"passes": passes(right.value, found.position_1)}
        )
    return rows


def passes(right: float, position_1: float) -> bool:
    """Within the limits; a share of nothing is not."""
    return right >= LEAST_RIGHT and POSITION_1[0] <= position_1 <= POSITION_1[1]


def shuffled(text: str, rng: np.random.Generator) -> str:
    """Its words in a random order."""
    return "".join(f" {word}" for word in rng.permutation(text.split()))


def as_long_as(text: str, other: str) -> str:
    """As many of its words as the other has."""
    return "".join(f" {word}" for word in text.split()[: len(other.split())])
