"""Rows of tokens packed into batches of one shape: little padding, no row sees another."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from fisher_jax.models import LanguageModel, TokenizedRows, activation_bytes, packed_rows
from fisher_jax.util.dispatch import ahead
from fisher_jax.util.errors import UserError
from fisher_jax.util.platforms import here, within_memory
from fisher_jax.util.progress import OnProgress


class TokenBatch(NamedTuple):
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


class Place(NamedTuple):
    """Where a row went: its sequence in the batch, and the position that it begins at."""

    row: int
    sequence: int
    begin: int


class Batches(Sequence[TokenBatch]):
    """Batches of whole rows in given orders, each filled until the next row has no room.

    Within a batch a row goes to the first sequence with room (first fit), so the order decides
    which rows share an optimiser step, and the token count of a step hardly varies. Only the places
    of the rows are kept; a batch is made when it is asked for.

    Args:
        rows: rows of at most T + 1 tokens.
        orders: rows by index, repetitions allowed; each order begins with a new batch.
        shape: (A, B, T).
        weights: of each row in the loss, default 1.

    Raises:
        ValueError: a row that is longer than T + 1 tokens.
    """

    def __init__(
        self,
        rows: TokenizedRows,
        orders: Iterable[Int[np.ndarray, "K"]],
        shape: tuple[int, int, int],
        weights: Float[np.ndarray, "N"] | None = None,
    ) -> None:
        self._rows, self._shape, self._weights = rows, shape, weights
        self._places = [
            np.asarray(places, np.int32)
            for order in orders
            for places in arrange(rows, order, shape)
        ]

    def __len__(self) -> int:
        """Steps in all."""
        return len(self._places)

    def __iter__(self) -> Iterator[TokenBatch]:
        """One step's batch after the other."""
        return (self[k] for k in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> TokenBatch: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenBatch]: ...
    def __getitem__(self, index: int | slice) -> TokenBatch | list[TokenBatch]:
        """One step's batch, or several."""
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        places = [Place(*place) for place in self._places[index].tolist()]
        return _batch(self._rows, places, self._shape, self._weights)


def packed_states(
    model: LanguageModel,
    rows: TokenizedRows,
    sequences: int | None = None,
    length: int = 128,
    on_progress: OnProgress | None = None,
) -> Float[np.ndarray, "T D"]:
    """What `embed.forward` gives, from packed sequences of one shape: a single compiled program.

    For many sets of short rows, such as an experiment's pools and test sets.

    Args:
        sequences: of a forward pass; default the device's `forward_tokens` in
            `fisher_jax.util.platforms`, or half, a quarter, ... of that where the rows fill no
            more.
        length: of a sequence, at least; more where a row is longer.
        on_progress: called with the number of rows done.
    """
    fed = np.array([len(ids) - 1 for ids in rows.ids])
    length = max(length, -(-int(fed.max()) // 64) * 64)
    # first fit in decreasing length over as many sequences as it takes
    (together,) = arrange(rows, np.argsort(-fed, kind="stable"), (1, len(fed), length))
    filled = 1 + max(place.sequence for place in together)
    if sequences is None:
        of_sequence = length * activation_bytes(model.module.config, length)
        sequences = within_memory(max(1, here().forward_tokens // length), of_sequence)
        while sequences // 2 >= filled:
            sequences //= 2
    n_batches = -(-filled // sequences)
    batches = [[] for _ in range(n_batches)]
    for i, sequence, begin in together:
        batches[sequence // sequences].append(Place(i, sequence % sequences, begin))
    graph, weights = nnx.split(model.module)
    offsets = rows.offsets
    tokens_TxD = np.empty((offsets[-1], model.dim), np.float32)

    def begun() -> Iterator[tuple[list[Place], Array]]:
        for places in batches:
            batch = _batch(rows, places, (1, sequences, length), None)
            yield places, _packed(graph, weights, *(x[0] for x in batch[:3]))

    done = 0
    for places, on_device in ahead(begun()):
        hidden = np.asarray(on_device)
        for i, sequence, begin in places:
            states = hidden[sequence, begin : begin + len(rows.ids[i]) - 1]
            tokens_TxD[offsets[i] : offsets[i + 1]] = states[rows.learnt[i][1:]]
        done += len(places)
        if on_progress is not None:
            on_progress(done)
    return tokens_TxD


@functools.partial(jax.jit, static_argnames="graph")
def _packed(
    graph: nnx.GraphDef, weights: nnx.State, ids: Array, positions: Array, segments: Array
) -> Array:
    module = nnx.merge(graph, weights)
    return module.states(ids, positions, packed_rows(segments))[0].astype(jnp.float32)


def arrange(
    rows: TokenizedRows, order: Int[np.ndarray, "K"], shape: tuple[int, int, int]
) -> Iterator[list[Place]]:
    """First fit: the places of each batch's rows."""
    sequences, length = shape[0] * shape[1], shape[2]
    fed = np.array([len(ids) - 1 for ids in rows.ids])
    if len(order) and fed[order].max() > length:
        longest = int(order[np.argmax(fed[order])])
        raise UserError(
            f"row {longest} has {fed[longest] + 1} tokens, but a sequence takes {length + 1}: "
            "raise sequence_length or cut rows by max_length"
        )
    places, room = [], _Room(sequences, length)
    for i in order.tolist():
        need = int(fed[i])
        if need > room.most:
            yield places
            places, room = [], _Room(sequences, length)
        places.append(Place(i, *room.take(need)))
    if places:
        yield places


class _Room:
    """Room left in sequences, as a binary tree of maxima: first fit in log S steps.

    Node k has the children 2 k and 2 k + 1, the sequences are the leaves.
    """

    def __init__(self, sequences: int, length: int) -> None:
        self._length, self._first = length, 1 << (sequences - 1).bit_length()
        leaves = [length] * sequences + [-1] * (self._first - sequences)
        self._left = [-1] * self._first + leaves
        for node in reversed(range(1, self._first)):
            self._left[node] = max(self._left[2 * node], self._left[2 * node + 1])

    @property
    def most(self) -> int:
        """In any sequence."""
        return self._left[1]

    def take(self, need: int) -> tuple[int, int]:
        """The first sequence with so much room, and the position from which it is taken."""
        left, node = self._left, 1
        while node < self._first:
            node *= 2
            node += left[node] < need
        place = node - self._first, self._length - left[node]
        left[node] -= need
        while node > 1:
            node //= 2
            left[node] = max(left[2 * node], left[2 * node + 1])
        return place


def _batch(
    rows: TokenizedRows,
    places: list[Place],
    shape: tuple[int, int, int],
    weights: np.ndarray | None,
) -> TokenBatch:
    flat = (shape[0] * shape[1], shape[2])
    ids, positions, segments, labels = np.zeros((4, *flat), np.int32)
    counts = np.zeros(flat, np.float32)
    for segment, (i, sequence, begin) in enumerate(places, start=1):
        tokens = rows.ids[i]
        at = np.s_[sequence, begin : begin + len(tokens) - 1]
        ids[at], labels[at] = tokens[:-1], tokens[1:]
        positions[at], segments[at] = np.arange(len(tokens) - 1), segment
        counts[at] = rows.learnt[i][1:] * (1 if weights is None else weights[i])
    return TokenBatch(*(x.reshape(shape) for x in (ids, positions, segments, labels, counts)))
