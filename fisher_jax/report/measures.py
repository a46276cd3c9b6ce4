"""What a selection is judged by where its rule does not go by information."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from fisher_jax.design import TokenEmbeddings
from fisher_jax.report.subject import Subject
from fisher_jax.selectors import task_similarity
from fisher_jax.util.streams import stream

SAMPLE = 1000  # rows of the pool whose nearest choice is looked for
SCORES = {
    "losses": ("loss", "mean loss of a row (nats a token)"),
    "quality": ("P(yes)", "quality of a row, P(yes)"),
    "ifd": ("IFD", "IFD of a row, a ratio of losses"),
    "el2n": ("EL2N", "mean error of a row's tokens, EL2N"),
    "gradient_norm": ("gradient norm", "mean gradient norm of a row's tokens"),
}


class Measure(NamedTuple):
    """Numbers that say how well rows do what their rule wants.

    Attributes:
        name: of the one number of a selection, in a sentence.
        label: of an axis, with the unit.
        of: the numbers of some examples: a number each, or of spread those of `distances_in`.
        column: of a table of examples; empty where an example alone has no such number.
        values: (N,) of each example; None of spread.
        whole: the one number of many: their mean, or of spread the largest.
    """

    name: str
    label: str
    of: Callable[[Int[np.ndarray, "n"]], Float[np.ndarray, "_"]]
    column: str = ""
    values: Float[np.ndarray, "N"] | None = None
    whole: Callable[[np.ndarray], float] = np.mean  # pyright: ignore[reportAssignmentType]


def measure_of(subject: Subject) -> Measure | None:
    """By what the selection is judged; None is by its information, f."""
    if subject.aim == "task":
        values = task_similarity(in_memory(subject), subject.scores["targets"]).max(axis=0)
        label = "similarity to the nearest row of the task (cosine)"
        return _mean_of("mean similarity to the task", "to task", label, values)
    if subject.aim == "score":
        column, label = SCORES.get(subject.rule.needs[0], (subject.rule.needs[0],) * 2)
        return _mean_of(f"mean {column}", column, label, subject.scores[subject.rule.needs[0]])
    if subject.aim == "spread":
        name = "largest distance of a row of the pool to the nearest choice"
        label = "distance to the nearest choice, between rows' mean embeddings"
        return Measure(name, label, distances_in(subject), whole=np.max)
    return None


def distances_in(
    subject: Subject,
) -> Callable[[Int[np.ndarray, "n"]], Float[np.ndarray, "S"]]:
    """How far `SAMPLE` rows of the pool are from the nearest of some examples.

    `min_{j in S} |e_i - e_j|`, e the mean of a row's embeddings.
    """
    points = in_memory(subject).pooled("mean")
    norms = np.einsum("nd,nd->n", points, points)
    rng = stream(subject.seed, "report: spread")
    some = rng.permutation(len(points))[:SAMPLE]

    def distances(chosen: Int[np.ndarray, "n"]) -> Float[np.ndarray, "S"]:
        nearest = np.full(len(some), np.inf, points.dtype)
        for begin in range(0, len(chosen), 4096):
            part = chosen[begin : begin + 4096]
            squared = norms[some, None] + norms[part] - 2 * (points[some] @ points[part].T)
            nearest = np.minimum(nearest, squared.min(axis=1))
        nearest[np.isin(some, chosen)] = 0  # not their rounding
        return np.sqrt(np.maximum(nearest, 0))

    return distances


def in_memory(subject: Subject) -> TokenEmbeddings:
    """The pool; rules that read it from disk as they need it all go by information."""
    assert isinstance(subject.emb, TokenEmbeddings)
    return subject.emb


def _mean_of(name: str, column: str, label: str, values: np.ndarray) -> Measure:
    values = np.asarray(values, np.float64)
    return Measure(name, label, lambda chosen: values[chosen], column, values)
