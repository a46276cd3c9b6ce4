"""Greedy and lazy greedy maximisation of the information, as one compiled loop.

The public door is `fisher_jax.select`; what stands here takes valid input.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from fisher_jax.buckets import ladder
from fisher_jax.design import TokenEmbeddings, information_gain, whitened_gain
from fisher_jax.linalg import HIGHEST, cholesky_identity_plus, update_root

MIN_ROWS, MAX_ROWS = 128, 1024  # of a batch of candidates: small ones evaluate few in vain
BATCH_PRODUCTS = 1 << 24  # rows D^2 of one that is worth its overhead
BATCHES = 64  # that a pool has at least, where MIN_ROWS allows it
MAX_BUCKETS = 8
BUCKET_SIZE = 1 << 18  # numbers of a pool that are worth a bucket of their own
FEW_BUCKETS = 3  # of what runs seldom, where one more to compile costs more than padding
BOUND_SLACK = {"float32": 1e-4, "float64": 1e-9}  # rounding that a cached bound is allowed
TIE = {"float32": 2e-6, "float64": 1e-12}  # gains that differ by rounding alone are equal

Method = Literal["lazy", "naive"]
Number = float | int | Array  # a Python number, traced inside jit


class Bucket(NamedTuple):
    """Examples `start:stop` (in bucket order) are padded to `length` rows, `batch` at a time."""

    start: int
    stop: int
    length: int
    batch: int

    @classmethod
    def of(cls, start: int, stop: int, length: int, rows: int) -> "Bucket":
        """With about `rows` rows in a batch."""
        return cls(start, stop, length, min(stop - start, max(1, rows // length)))

    @property
    def factored(self) -> int:
        """How many are factored at once: more would hang where two selections run side by side."""
        return max(1, MIN_ROWS // self.length)


class Pool(NamedTuple):
    """A pool on the device, examples in bucket order; `original` is their place in the pool.

    A choice spends `cost` of the budget; the largest gain divided by `per` is chosen.
    """

    tokens: Float[Array, "T D"]
    start: Int[Array, "N"]
    length: Int[Array, "N"]
    original: Int[Array, "N"]
    cost: Float[Array, "N"]
    per: Float[Array, "N"]


class State(NamedTuple):
    """What a choice changes. `stamp` is the choice before which a bound was last evaluated."""

    root: Float[Array, "D D"]
    bounds: Float[Array, "N"]
    stamp: Int[Array, "N"]
    taken: Bool[Array, "N"]
    remaining: Float[Array, ""]
    chosen: Int[Array, ""]
    ranking: Int[Array, "N"]
    gains: Float[Array, "N"]


def make_pool(
    emb: TokenEmbeddings, costs: np.ndarray, per: np.ndarray
) -> tuple[Pool, tuple[Bucket, ...]]:
    """The pool on the device and its buckets; examples longer than D become D rows."""
    emb = emb.at_most_dim_rows()
    lengths = emb.lengths
    steps = ladder(lengths, min(MAX_BUCKETS, 1 + emb.tokens.size // BUCKET_SIZE))
    bucket_of = np.searchsorted(steps, lengths)
    order = np.argsort(bucket_of, kind="stable")
    edges = np.searchsorted(bucket_of[order], np.arange(len(steps) + 1))
    rows = batch_rows(*emb.tokens.shape)
    buckets = tuple(
        Bucket.of(int(a), int(b), int(length), rows)
        for a, b, length in zip(edges[:-1], edges[1:], steps, strict=True)
    )
    pool = Pool(
        tokens=jnp.asarray(emb.tokens),
        start=jnp.asarray(emb.offsets[:-1][order]),
        length=jnp.asarray(lengths[order], jnp.int32),
        original=jnp.asarray(order, jnp.int32),
        cost=jnp.asarray(costs[order], jnp.float64),
        per=jnp.asarray(per[order], emb.tokens.dtype),
    )
    return pool, buckets


def batch_rows(n_tokens: int, dim: int) -> int:
    """Rows of a batch: many where D is small, as long as the pool has BATCHES of them."""
    return int(np.clip(min(BATCH_PRODUCTS // dim**2, n_tokens // BATCHES), MIN_ROWS, MAX_ROWS))


def merged(buckets: tuple[Bucket, ...]) -> tuple[Bucket, ...]:
    """At most FEW_BUCKETS, of neighbouring ones, that pad their examples with the fewest rows.

    Their batches have as many rows as those of `buckets`.
    """
    rows = max((b.length * b.batch for b in buckets if b.batch > 1), default=MIN_ROWS)
    lengths = np.array([b.length for b in buckets])
    steps = ladder(np.repeat(lengths, [b.stop - b.start for b in buckets]), FEW_BUCKETS)
    last = np.searchsorted(lengths, steps)  # of each part
    first = [0, *(last[:-1] + 1)]
    return tuple(
        Bucket.of(buckets[i].start, buckets[j].stop, buckets[j].length, rows)
        for i, j in zip(first, last, strict=True)
    )


def first_root(dim: int, ridge: Number, dtype: DTypeLike) -> Float[Array, "D D"]:
    """W of V = ridge I."""
    return jnp.eye(dim, dtype=dtype) * jnp.asarray(1 / jnp.sqrt(ridge), dtype)


@functools.partial(jax.jit, static_argnames=("buckets",))
def start(pool: Pool, ridge: Number, budget: Number, buckets: tuple[Bucket, ...]) -> State:
    """Nothing chosen: V = ridge I, and every example's gain evaluated."""
    n, dtype = len(pool.start), pool.tokens.dtype
    root = first_root(pool.tokens.shape[1], ridge, dtype)
    return State(
        root=root,
        bounds=all_gains(pool, root[0, 0], merged(buckets)),
        stamp=jnp.zeros(n, jnp.int32),
        taken=jnp.zeros(n, bool),
        remaining=jnp.asarray(budget, jnp.float64),
        chosen=jnp.zeros((), jnp.int32),
        ranking=jnp.full(n, -1, jnp.int32),
        gains=jnp.zeros(n, dtype),
    )


@functools.partial(jax.jit, static_argnames=("buckets", "method"))
def advance(
    pool: Pool, state: State, until: Number, buckets: tuple[Bucket, ...], method: Method
) -> State:
    """Choose on, without a word to the host, until `until` are chosen or nothing fits."""
    find = _find_lazy if method == "lazy" else _find_naive

    def body(state: State) -> State:
        state, position = find(pool, state, buckets)
        return _choose(pool, state, position, merged(buckets))

    def goes_on(state: State) -> Bool[Array, ""]:
        return (state.chosen < until) & jnp.any(is_open(pool, state.taken, state.remaining))

    return jax.lax.while_loop(goes_on, body, state)


@functools.partial(jax.jit, static_argnames=("buckets",))
def replay(
    pool: Pool,
    root: Float[Array, "D D"],
    positions: Int[Array, "K"],
    buckets: tuple[Bucket, ...],
) -> tuple[Float[Array, "D D"], Float[Array, "K"]]:
    """The root after a given sequence (positions in bucket order), and its marginal gains.

    Positions below 0 are padding.
    """

    def gain_and_update(root, position):
        def branch(bucket: Bucket):
            def evaluate(root):
                x_MxD = padded_rows(pool, position[None], bucket.length)[0]
                whitened_MxD = jnp.matmul(x_MxD, root, precision=HIGHEST)
                return update_root(root, whitened_MxD), information_gain(x_MxD, root)

            return evaluate

        branches = [branch(b) for b in buckets]
        branches.append(lambda root: (root, jnp.zeros((), root.dtype)))
        which = jnp.where(position < 0, len(buckets), _bucket_of(position, buckets))
        return jax.lax.switch(which, branches, root)

    return jax.lax.scan(gain_and_update, root, positions)


@jax.jit
def replay_tokens(
    root: Float[Array, "D D"], blocks: Float[Array, "B M D"]
) -> tuple[Float[Array, "D D"], Float[Array, "B M"]]:
    """The root after some blocks of tokens, and what each token adds to the log-determinant.

    In nats. One factor `I + G = C C^T`, G = Y Y^T, Y = X W, tells of a whole block: token i adds
    `2 log C_ii = log(1 + G_ii - sum_{j < i} C_ij^2)`, of which the right side keeps what is too
    little beside 1. Rows of zeros (padding) add nothing.
    """

    def gains_and_update(root, x_MxD):
        whitened_MxD = jnp.matmul(x_MxD, root, precision=HIGHEST)
        gram_MxM = jnp.matmul(whitened_MxD, whitened_MxD.T, precision=HIGHEST)
        before_MxM = jnp.tril(cholesky_identity_plus(gram_MxM), -1)
        rest_M = jnp.diagonal(gram_MxM) - jnp.sum(before_MxM**2, axis=1)
        return update_root(root, whitened_MxD), jnp.log1p(jnp.maximum(rest_M, 0))

    return jax.lax.scan(gains_and_update, root, blocks)


def padded_rows(pool: Pool, positions: Int[Array, "B"], length: int) -> Float[Array, "B M D"]:
    """The embeddings of some examples, padded with rows of zeros to `length`."""
    offset = jnp.arange(length)[None]
    rows = pool.start[positions][:, None] + offset
    x_BxMxD = pool.tokens.at[rows].get(mode="clip")
    return jnp.where((offset < pool.length[positions][:, None])[..., None], x_BxMxD, 0)


def _chunk_gains(
    pool: Pool, root: Float[Array, "..."], positions: Int[Array, "B"], bucket: Bucket
) -> Float[Array, "B"]:
    """The one gain function of both methods. A scalar root is that multiple of the identity."""
    x_BxMxD = padded_rows(pool, positions, bucket.length)
    if root.ndim == 0:
        whitened_BxMxD = x_BxMxD * root
    else:
        whitened_BxMxD = jnp.matmul(x_BxMxD, root, precision=HIGHEST)
    if len(positions) <= bucket.factored:
        return jax.vmap(whitened_gain)(whitened_BxMxD)
    return jax.lax.map(whitened_gain, whitened_BxMxD, batch_size=bucket.factored)


@functools.partial(jax.jit, static_argnames=("buckets",))
def all_gains(
    pool: Pool, root: Float[Array, "..."], buckets: tuple[Bucket, ...]
) -> Float[Array, "N"]:
    """Gains of all examples, in bucket order.

    Batches come strictly one after the other: in jaxlib 0.10, batched factorisations that the CPU
    client runs side by side wait for each other's threads for ever where there are few cores.
    """
    counts = [-(-(b.stop - b.start) // b.batch) for b in buckets]
    first = [sum(counts[:k]) for k in range(len(buckets))]

    def branch(bucket: Bucket, first: int):
        def evaluate(chunk, gains):
            position = bucket.start + (chunk - first) * bucket.batch
            positions = jnp.minimum(position + jnp.arange(bucket.batch), bucket.stop - 1)
            own = _chunk_gains(pool, root, positions, bucket)
            return gains.at[positions].set(own)

        return evaluate

    branches = [branch(b, f) for b, f in zip(buckets, first, strict=True)]

    def body(chunk, gains):
        which = sum((chunk >= f for f in first[1:]), start=jnp.zeros((), jnp.int32))
        return jax.lax.switch(which, branches, chunk, gains)

    gains = jnp.zeros(len(pool.start), pool.tokens.dtype)
    return jax.lax.fori_loop(0, sum(counts), body, gains)


def is_open(pool: Pool, taken: Bool[Array, "N"], remaining: Float[Array, ""]) -> Bool[Array, "N"]:
    """Examples that are not chosen yet and that the rest of the budget pays for."""
    return ~taken & (pool.cost <= remaining)


def _bucket_of(position: Int[Array, ""], buckets: tuple[Bucket, ...]) -> Int[Array, ""]:
    return sum((position >= b.start for b in buckets[1:]), start=jnp.zeros((), jnp.int32))


def pick(pool: Pool, keys: Float[Array, "N"]) -> Int[Array, ""]:
    """Position of the largest key; among those that rounding can't tell apart, lowest index."""
    tied = keys >= jnp.max(keys) * (1 - TIE[keys.dtype.name])
    return jnp.argmin(jnp.where(tied, pool.original, len(keys))).astype(jnp.int32)


def _find_naive(pool: Pool, state: State, buckets: tuple[Bucket, ...]) -> tuple[State, Array]:
    """Algorithm 1: evaluate every candidate."""
    gains = all_gains(pool, state.root, buckets)
    is_candidate = is_open(pool, state.taken, state.remaining)
    keys = jnp.where(is_candidate, gains / pool.per, -jnp.inf)
    return state._replace(bounds=gains), pick(pool, keys)


def _find_lazy(pool: Pool, state: State, buckets: tuple[Bucket, ...]) -> tuple[State, Array]:
    """Algorithm 2: gains only fall, so an old gain is a bound; evaluate while one is in reach.

    Evaluated are all candidates whose bound reaches the best gain evaluated before this choice,
    less a slack for rounding, a batch of one bucket at a time. A bound that equals the best gain
    counts too if its index is lower. So the choice is Algorithm 1's, ties included.
    """
    n, dtype = len(pool.start), state.bounds.dtype
    is_candidate = is_open(pool, state.taken, state.remaining)
    reach = 1 - BOUND_SLACK[dtype.name]
    width = max(b.batch for b in buckets)

    def in_reach(bounds, stamp, best, index) -> Float[Array, "N"]:
        """Keys of the candidates to evaluate, -inf for the others."""
        keys = bounds / pool.per
        near = (keys >= best * reach) & ((keys != best) | (pool.original < index))
        return jnp.where(is_candidate & (stamp != state.chosen) & near, keys, -jnp.inf)

    def branch(bucket: Bucket):
        pad = (0, width - bucket.batch)

        def evaluate(keys):
            top, offset = jax.lax.top_k(keys[bucket.start : bucket.stop], bucket.batch)
            positions = bucket.start + offset.astype(jnp.int32)
            gains = _chunk_gains(pool, state.root, positions, bucket)
            positions = jnp.where(top > -jnp.inf, positions, n)  # n: nothing to evaluate
            return jnp.pad(positions, pad, constant_values=n), jnp.pad(gains, pad)

        return evaluate

    def body(carry):
        bounds, stamp, best, index, keys = carry
        tops = jnp.stack([jnp.max(keys[b.start : b.stop]) for b in buckets])
        positions, gains = jax.lax.switch(jnp.argmax(tops), [branch(b) for b in buckets], keys)
        bounds = bounds.at[positions].set(gains, mode="drop")
        stamp = stamp.at[positions].set(state.chosen, mode="drop")
        inside = jnp.minimum(positions, n - 1)
        ratios = jnp.where(positions < n, gains / pool.per[inside], -jnp.inf)
        before, best = best, jnp.maximum(best, jnp.max(ratios))
        index = jnp.minimum(
            jnp.where(before == best, index, n),
            jnp.min(jnp.where(ratios == best, pool.original[inside], n)),
        )
        return bounds, stamp, best, index, in_reach(bounds, stamp, best, index)

    def fresh_keys(bounds, stamp):
        return jnp.where(is_candidate & (stamp == state.chosen), bounds / pool.per, -jnp.inf)

    best = jnp.max(fresh_keys(state.bounds, state.stamp))  # -inf but before the first choice
    index = jnp.full((), n, jnp.int32)
    carry = (state.bounds, state.stamp, best, index, in_reach(*state[1:3], best, index))
    carry = jax.lax.while_loop(lambda c: jnp.max(c[-1]) > -jnp.inf, body, carry)
    bounds, stamp, *_ = carry
    return state._replace(bounds=bounds, stamp=stamp), pick(pool, fresh_keys(bounds, stamp))


def _choose(
    pool: Pool, state: State, position: Int[Array, ""], buckets: tuple[Bucket, ...]
) -> State:
    def branch(bucket: Bucket):
        def update(root):
            x_MxD = padded_rows(pool, position[None], bucket.length)[0]
            return update_root(root, jnp.matmul(x_MxD, root, precision=HIGHEST))

        return update

    return state._replace(
        root=jax.lax.switch(
            _bucket_of(position, buckets), [branch(b) for b in buckets], state.root
        ),
        taken=state.taken.at[position].set(True),
        remaining=state.remaining - pool.cost[position],
        chosen=state.chosen + 1,
        ranking=state.ranking.at[state.chosen].set(pool.original[position]),
        gains=state.gains.at[state.chosen].set(state.bounds[position]),
    )
