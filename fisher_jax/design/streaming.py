"""Lazy greedy selection from a pool that is larger than memory: only what is evaluated is read.

The rule and the arithmetic are `greedy`'s; the loop over batches runs on the host, which reads the
tokens of the next candidates from wherever the pool is. The first pass reads every example once.
"""

import functools
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import ArrayLike

from fisher_jax.design.buckets import ladder, worth
from fisher_jax.design.budget import Budget
from fisher_jax.design.candidates import Batch, batch_gains, batches
from fisher_jax.design.embeddings import TokenSource
from fisher_jax.design.greedy import BOUND_SLACK, TIE, first_root
from fisher_jax.design.linalg import update_root, whiten
from fisher_jax.util.platforms import here


class _Kind(NamedTuple):
    """Examples of about one length, and the batch that evaluates them."""

    batch: Batch
    examples: Int[np.ndarray, "n"]


class Stream:
    """A selection under way.

    Attributes:
        ranking, gains: of the examples chosen so far.
        root: W with `W W^T = V^-1`.
        evaluated: gains evaluated so far.
    """

    def __init__(
        self,
        source: TokenSource,
        budget: Budget,
        per: np.ndarray,
        bonus: np.ndarray | None,
        ridge: float | int,
        dtype: np.dtype,
    ) -> None:
        self.ranking: list[int] = []
        self.gains: list[float] = []
        self.evaluated = 0
        self._source, self._per = source, per.astype(dtype)
        self._bonus = np.zeros(len(source), dtype) if bonus is None else bonus.astype(dtype)
        self._costs, self._left = budget.units
        self._group, self._room = budget.rooms
        self._lengths = np.minimum(source.lengths, source.dim)
        order = np.argsort(self._lengths, kind="stable")
        ascending = self._lengths[order]
        shapes = batches(ascending, source.dim)
        # in the order of the source, so that the first pass reads it from one end to the other
        self._kinds = [_Kind(b, np.sort(order[b.start : b.stop])) for b in shapes]
        self._kind_of = np.empty(len(source), np.int8)
        for k, kind in enumerate(self._kinds):
            self._kind_of[kind.examples] = k
        n_numbers = int(ascending.sum()) * source.dim
        self._steps = ladder(ascending, worth(n_numbers, here().update_lengths))
        self.root = first_root(source.dim, ridge, dtype)
        self._taken = np.zeros(len(source), bool)
        self._bounds = np.empty(len(source), dtype)
        self._stamp = np.zeros(len(source), np.int64)

    def start(self) -> None:
        """Every example's gain, given nothing."""
        self.all_gains(self.root[0, 0])

    def all_gains(self, root: Array) -> Float[np.ndarray, "N"]:
        """Every example's gain, given the information whose root this is."""
        for kind in self._kinds:
            begin = 0
            while begin < len(kind.examples):
                begin += self._evaluate(kind.batch, kind.examples[begin:], root)
        return self._bounds

    def outdate(self, root: Array) -> None:
        """Go on with a root of more information: the gains so far are bounds."""
        self.root, self._stamp = root, self._stamp - 1

    def choose(self) -> int | None:
        """The next example, or None where the budget pays for none that is left."""
        is_open = self._is_open
        if not is_open.any():
            return None
        fresh = is_open & (self._stamp == len(self.ranking))
        queues, best = self._queues(is_open & ~fresh), self._best(np.flatnonzero(fresh))
        while queues:
            kind = max(queues, key=lambda k: self.key(int(queues[k][0])))
            batch, queue = self._kinds[kind].batch, queues[kind]
            top = self._in_reach(queue[: batch.width], best)
            if len(top):
                done = top[: self._evaluate(batch, top)]
                best = max(best, self._best(done))
                end = int(np.argmax(queue == done[-1])) + 1
            else:  # all that follow are below, or as good as the best and come after it
                end = batch.width if self.key(int(queue[0])) == best[0] else len(queue)
            if end < len(queue):
                queues[kind] = queue[end:]
            else:
                del queues[kind]
        fresh = is_open & (self._stamp == len(self.ranking))
        keys = np.where(fresh, self.keys(slice(None)), -np.inf)
        tied = keys >= keys.max() * (1 - TIE[keys.dtype.name])
        return int(np.argmax(tied))  # the first

    @property
    def open(self) -> Int[np.ndarray, "n"]:
        """Examples that are left and that the rest of the budget pays for."""
        return np.flatnonzero(self._is_open)

    @property
    def _is_open(self) -> Bool[np.ndarray, "N"]:
        room = np.minimum(self._left, self._room[self._group])
        return ~self._taken & (self._costs <= room)

    def best_of(self, candidates: Int[np.ndarray, "n"]) -> int:
        """The best of some examples, all of which are evaluated; of ties the first."""
        candidates = np.sort(candidates)
        self.evaluate(candidates)
        keys = self.keys(candidates)
        return int(candidates[np.argmax(keys >= keys.max() * (1 - TIE[keys.dtype.name]))])

    def evaluate(self, candidates: Int[np.ndarray, "n"]) -> None:
        """Gains of some examples, given those that are chosen."""
        for k, kind in enumerate(self._kinds):
            own, begin = candidates[self._kind_of[candidates] == k], 0
            while begin < len(own):
                begin += self._evaluate(kind.batch, own[begin:])

    def evaluate_first(self, candidates: Int[np.ndarray, "n"]) -> None:
        """The first of some examples, and with it those of the others that fill its batch."""
        kind = self._kind_of[candidates[0]]
        self._evaluate(self._kinds[kind].batch, candidates[self._kind_of[candidates] == kind])

    def key(self, i: int) -> float:
        """Its gain, or a bound of it, divided by its price."""
        return float((self._bounds[i] + self._bonus[i]) / self._per[i])

    def is_fresh(self, i: int) -> bool:
        """Its gain is given all that are chosen; else it is a bound."""
        return bool(self._stamp[i] == len(self.ranking))

    def take(self, i: int) -> None:
        """An example joins the chosen ones."""
        x = self._read(np.asarray([i]))
        length = int(self._steps[np.searchsorted(self._steps, len(x))])
        padded = np.zeros((length, x.shape[1]), x.dtype)
        padded[: len(x)] = x
        self.root = _joined(self.root, padded, self._kinds[0].batch.blocks)
        self._taken[i] = True
        self._left -= self._costs[i]
        self._room[self._group[i]] -= self._costs[i]
        self.ranking.append(i)
        self.gains.append(float(self._bounds[i]))

    @property
    def spent(self) -> float:
        """Of the budget."""
        return float(self._costs[self.ranking].sum())

    def keys(self, examples: Int[np.ndarray, "n"] | slice) -> Float[np.ndarray, "n"]:
        """As `device_pool.keys`."""
        return (self._bounds[examples] + self._bonus[examples]) / self._per[examples]

    def _best(self, fresh: Int[np.ndarray, "n"]) -> tuple[float, int]:
        """The largest ratio of gain and price among some, and minus the first example of it."""
        if not len(fresh):
            return -np.inf, -len(self._taken)
        ratios = self.keys(fresh)
        return float(ratios.max()), -int(fresh[ratios == ratios.max()].min())

    def _queues(self, stale: Bool[np.ndarray, "N"]) -> dict[int, Int[np.ndarray, "n"]]:
        """Those examples by kind, each kind's by falling bounds."""
        queues = {}
        for k, kind in enumerate(self._kinds):
            own = kind.examples[stale[kind.examples]]
            if len(own):
                queues[k] = own[np.argsort(-self.keys(own), kind="stable")]
        return queues

    def _in_reach(
        self, stale: Int[np.ndarray, "n"], best: tuple[float, int]
    ) -> Int[np.ndarray, "m"]:
        """Those whose old bound may still win, as `greedy._find_lazy` has it."""
        keys = self.keys(stale)
        reach = best[0] * (1 - BOUND_SLACK[keys.dtype.name])
        return stale[(keys >= reach) & ((keys != best[0]) | (stale < -best[1]))]

    def _evaluate(
        self, batch: Batch, candidates: Int[np.ndarray, "n"], root: ArrayLike | None = None
    ) -> int:
        """Gains of the first candidates that a batch has room for; how many those are."""
        ends = np.cumsum(self._lengths[candidates[: batch.width]])
        few = candidates[: int(np.searchsorted(ends, batch.rows, side="right"))]
        x = self._read(few)
        tokens = np.zeros((batch.rows, x.shape[1]), x.dtype)
        tokens[: len(x)] = x
        length = np.zeros(batch.width, np.int32)
        length[: len(few)] = self._lengths[few]
        start = np.cumsum(length, dtype=np.int32) - length
        gains, is_in = _gains(tokens, start, length, self.root if root is None else root, batch)
        count = int(np.sum(is_in))  # the first ones: what comes after one that has no room has none
        self._bounds[few[:count]] = np.asarray(gains)[:count]
        self._stamp[few[:count]] = len(self.ranking)
        self.evaluated += count
        return count

    def _read(self, examples: Int[np.ndarray, "n"]) -> Float[np.ndarray, "T D"]:
        """Their tokens; of one longer than D its D rows of the same information."""
        x, lengths = self._source.read(examples), self._source.lengths[examples]
        x = x.astype(self._bounds.dtype, copy=False)
        if lengths.max() <= x.shape[1]:
            return x
        parts = np.split(x, np.cumsum(lengths)[:-1])
        short = [np.linalg.qr(p, mode="r") if len(p) > p.shape[1] else p for p in parts]
        return np.concatenate(short)


@functools.partial(jax.jit, static_argnames=("batch",))
def _gains(
    tokens: Float[Array, "R D"], start: Array, length: Array, root: Array, batch: Batch
) -> tuple[Float[Array, "C"], Bool[Array, "C"]]:
    return batch_gains(tokens, start, length, root, batch)


@functools.partial(jax.jit, static_argnames=("blocks",))
def _joined(
    root: Float[Array, "D D"], x_MxD: Float[Array, "M D"], blocks: int
) -> Float[Array, "D D"]:
    return update_root(root, whiten(x_MxD, root, blocks), blocks)
