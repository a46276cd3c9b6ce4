"""Rows of tokens packed into batches of one shape: little padding, no row sees another."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from fisher_jax.embed import TokenizedRows


class Batch(NamedTuple):
    """What one optimiser step is trained on: A micro-batches of B sequences of T positions.

    Attributes:
        ids: tokens that are fed.
        positions: of each token in its own row.
        segments: which row of the sequence a token belongs to, from 1; 0 is padding.
        labels: the token to predict.
        weights: of each prediction in the loss; 0 where it doesn't count.
    """

    ids: Int[np.ndarray, "A B T"]
    positions: Int[np.ndarray, "A B T"]
    segments: Int[np.ndarray, "A B T"]
    labels: Int[np.ndarray, "A B T"]
    weights: Float[np.ndarray, "A B T"]


def pack(
    rows: TokenizedRows,
    order: Int[np.ndarray, "K"],
    shape: tuple[int, int, int],
    weights: Float[np.ndarray, "N"] | None = None,
) -> Iterator[Batch]:
    """Batches of whole rows in a given order, each filled until the next row has no room.

    Within a batch a row goes to the first sequence with room (first fit), so the order decides
    which rows share an optimiser step, and the token count of a step hardly varies.

    Args:
        rows: rows of at most T + 1 tokens.
        order: rows by index, repetitions allowed.
        shape: (A, B, T).
        weights: of each row in the loss, default 1.

    Raises:
        ValueError: a row that is longer than T + 1 tokens.
    """
    sequences, length = shape[0] * shape[1], shape[2]
    fed = np.array([len(ids) - 1 for ids in rows.ids])
    if len(order) and fed[order].max() > length:
        longest = int(order[np.argmax(fed[order])])
        raise ValueError(
            f"row {longest} has {fed[longest] + 1} tokens, but a sequence takes {length + 1}: "
            "raise sequence_length or cut rows by max_length"
        )
    places, used = [], np.zeros(sequences, np.int64)
    for i in order:
        (room,) = np.nonzero(used + fed[i] <= length)
        if not len(room):
            yield _batch(rows, places, shape, weights)
            places, used, room = [], np.zeros(sequences, np.int64), [0]
        places.append((int(i), int(room[0]), int(used[room[0]])))
        used[room[0]] += fed[i]
    if places:
        yield _batch(rows, places, shape, weights)


def _batch(
    rows: TokenizedRows,
    places: list[tuple[int, int, int]],
    shape: tuple[int, int, int],
    weights: np.ndarray | None,
) -> Batch:
    flat = (shape[0] * shape[1], shape[2])
    ids, positions, segments, labels = np.zeros((4, *flat), np.int32)
    counts = np.zeros(flat, np.float32)
    for segment, (i, sequence, begin) in enumerate(places, start=1):
        tokens = rows.ids[i]
        at = np.s_[sequence, begin : begin + len(tokens) - 1]
        ids[at], labels[at] = tokens[:-1], tokens[1:]
        positions[at], segments[at] = np.arange(len(tokens) - 1), segment
        counts[sequence, begin + rows.first[i] - 1 : begin + len(tokens) - 1] = (
            1 if weights is None else weights[i]
        )
    return Batch(*(x.reshape(shape) for x in (ids, positions, segments, labels, counts)))
