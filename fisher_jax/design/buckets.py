"""Length buckets: a few padded lengths instead of padding everything to the longest."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

SHAPE_SIZE = 1 << 18  # numbers of a pool that are worth compiling one more shape


def worth(size: int, most: int) -> int:
    """Shapes that a pool of so many numbers is worth, at most `most`."""
    return min(most, 1 + size // SHAPE_SIZE)


class Bucket(NamedTuple):
    """Examples `start:stop` of a pool that is sorted by length are padded to `length` rows."""

    start: int
    stop: int
    length: int


def bucketed(lengths: Int[np.ndarray, "N"], most: int) -> tuple[Bucket, ...]:
    """At most `most` buckets of a pool with these ascending lengths."""
    steps = ladder(lengths, most)
    stops = np.searchsorted(lengths, steps, side="right").tolist()
    return tuple(map(Bucket, [0, *stops[:-1]], stops, steps.tolist()))


def ladder(lengths: Int[np.ndarray, "N"], most: int, step: int = 1) -> Int[np.ndarray, "S"]:
    """At most `most` padded lengths, ascending, that pad a pool with the fewest rows.

    Exact dynamic programme over the distinct lengths (rounded up to multiples of `step`):
    `cost(j, b) = min_i cost(i, b - 1) + count(i < length <= j) * length_j`. Pools of very many
    distinct lengths are first thinned to 256 quantiles.
    """
    lengths = -(-np.asarray(lengths) // step) * step
    values, counts = np.unique(lengths, return_counts=True)
    if len(values) > 256:
        values = np.unique(np.quantile(lengths, np.linspace(0, 1, 257), method="higher"))
        counts = np.diff(np.searchsorted(np.sort(lengths), values, side="right"), prepend=0)
    total = np.concatenate([[0], np.cumsum(counts)])
    cost = np.concatenate([[0.0], np.full(len(values), np.inf)])
    came_from = []
    for _ in range(min(most, len(values))):
        options = cost[:, None] + (total[None, 1:] - total[:, None]) * values[None, :]
        options[np.tril_indices_from(options, -1)] = np.inf  # an edge lies above the one before
        came_from.append(np.argmin(options, axis=0))
        cost = np.concatenate([[np.inf], np.min(options, axis=0)])
    edge, edges = len(values), []
    for origins in reversed(came_from):
        edges.append(values[edge - 1])
        edge = int(origins[edge - 1])
    return np.asarray(edges[::-1], lengths.dtype)
