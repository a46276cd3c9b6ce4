"""Greedy and lazy greedy maximisation of the information, as one compiled loop.

The public door is `fisher_jax.select`; what stands here takes valid input.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from fisher_jax.buckets import ladder
from fisher_jax.design import TokenEmbeddings, information_gain, whitened_gain
from fisher_jax.linalg import HIGHEST, update_root

CHUNK_ROWS = 128  # token rows evaluated at once: large enough for the matrix unit, small enough
MAX_BUCKETS = 8  # that few candidates are evaluated in vain
BOUND_SLACK = {"float32": 1e-4, "float64": 1e-9}  # rounding that a cached bound is allowed

Method = Literal["lazy", "naive"]


class Bucket(NamedTuple):
    """Examples `start:stop` (in bucket order) are padded to `length` rows, `batch` at a time."""

    start: int
    stop: int
    length: int
    batch: int


class Pool(NamedTuple):
    """A pool on the device. Examples stand in bucket order, `index` is their place in the pool."""

    tokens: Float[Array, "T D"]
    start: Int[Array, "N"]
    length: Int[Array, "N"]
    index: Int[Array, "N"]
    cost: Float[Array, "N"]


class State(NamedTuple):
    """What a choice changes. `stamp` is the choice before which a bound was last evaluated."""

    root: Float[Array, "D D"]
    bounds: Float[Array, "N"]
    stamp: Int[Array, "N"]
    taken: Bool[Array, "N"]
    remaining: Float[Array, ""]
    count: Int[Array, ""]
    ranking: Int[Array, "K"]
    gains: Float[Array, "K"]


class Best(NamedTuple):
    """The best candidate so far: gain per cost, index in the pool, position in bucket order."""

    key: Float[Array, ""]
    index: Int[Array, ""]
    position: Int[Array, ""]


def make_pool(emb: TokenEmbeddings, costs: np.ndarray) -> tuple[Pool, tuple[Bucket, ...]]:
    """The pool on the device and its buckets; examples longer than D become D rows."""
    emb = emb.at_most_dim_rows()
    lengths = emb.lengths
    steps = ladder(lengths, MAX_BUCKETS)
    bucket_of = np.searchsorted(steps, lengths)
    order = np.argsort(bucket_of, kind="stable")
    edges = np.searchsorted(bucket_of[order], np.arange(len(steps) + 1))
    buckets = tuple(
        Bucket(int(a), int(b), int(length), int(min(b - a, max(1, CHUNK_ROWS // length))))
        for a, b, length in zip(edges[:-1], edges[1:], steps, strict=True)
    )
    pool = Pool(
        tokens=jnp.asarray(emb.tokens),
        start=jnp.asarray(emb.offsets[:-1][order]),
        length=jnp.asarray(lengths[order], jnp.int32),
        index=jnp.asarray(order, jnp.int32),
        cost=jnp.asarray(costs[order], jnp.float64),
    )
    return pool, buckets


@functools.partial(jax.jit, static_argnames=("buckets", "capacity"))
def start(
    pool: Pool, ridge: float, budget: float, buckets: tuple[Bucket, ...], capacity: int
) -> State:
    """Nothing chosen: V = ridge I, and every example's gain evaluated."""
    n, dtype = len(pool.start), pool.tokens.dtype
    scale = (1 / jnp.sqrt(ridge)).astype(dtype)
    return State(
        root=jnp.eye(pool.tokens.shape[1], dtype=dtype) * scale,
        bounds=all_gains(pool, scale, buckets),
        stamp=jnp.zeros(n, jnp.int32),
        taken=jnp.zeros(n, bool),
        remaining=jnp.asarray(budget, jnp.float64),
        count=jnp.zeros((), jnp.int32),
        ranking=jnp.full(capacity, -1, jnp.int32),
        gains=jnp.zeros(capacity, dtype),
    )


@functools.partial(jax.jit, static_argnames=("buckets", "method"))
def advance(
    pool: Pool, state: State, until: int, buckets: tuple[Bucket, ...], method: Method
) -> State:
    """Choose on, without a word to the host, until `until` are chosen or nothing fits."""
    find = _find_lazy if method == "lazy" else _find_naive

    def body(state: State) -> State:
        state, position = find(pool, state, buckets)
        return _choose(pool, state, position, buckets)

    def goes_on(state: State) -> Bool[Array, ""]:
        return (state.count < until) & jnp.any(_is_open(pool, state))

    return jax.lax.while_loop(goes_on, body, state)


@functools.partial(jax.jit, static_argnames=("buckets",))
def replay(
    pool: Pool, positions: Int[Array, "K"], ridge: float, buckets: tuple[Bucket, ...]
) -> tuple[Float[Array, "D D"], Float[Array, "K"]]:
    """The root after a given sequence (positions in bucket order), and its marginal gains."""
    dtype = pool.tokens.dtype
    root = jnp.eye(pool.tokens.shape[1], dtype=dtype) * (1 / jnp.sqrt(ridge)).astype(dtype)

    def gain_and_update(root, position):
        def branch(bucket: Bucket):
            def evaluate(root):
                x_MxD = _rows(pool, position[None], bucket.length)[0]
                whitened_MxD = jnp.matmul(x_MxD, root, precision=HIGHEST)
                return update_root(root, whitened_MxD), information_gain(x_MxD, root)

            return evaluate

        return jax.lax.switch(_bucket_of(position, buckets), [branch(b) for b in buckets], root)

    return jax.lax.scan(gain_and_update, root, positions)


def _rows(pool: Pool, positions: Int[Array, "B"], length: int) -> Float[Array, "B M D"]:
    """The embeddings of some examples, padded with rows of zeros to `length`."""
    offset = jnp.arange(length)
    rows = pool.start[positions][:, None] + offset
    x_BxMxD = pool.tokens.at[rows].get(mode="clip")
    return jnp.where((offset < pool.length[positions][:, None])[..., None], x_BxMxD, 0)


def _chunk_gains(
    pool: Pool, root: Float[Array, "..."], positions: Int[Array, "B"], length: int
) -> Float[Array, "B"]:
    """The one gain function of both methods: same shapes, so the same bits for the same rows.

    A scalar root stands for that multiple of the identity.
    """
    x_BxMxD = _rows(pool, positions, length)
    if root.ndim == 0:
        return jax.vmap(whitened_gain)(x_BxMxD * root)
    return jax.vmap(information_gain, (0, None))(x_BxMxD, root)


@functools.partial(jax.jit, static_argnames=("buckets",))
def all_gains(
    pool: Pool, root: Float[Array, "..."], buckets: tuple[Bucket, ...]
) -> Float[Array, "N"]:
    """Gains of all examples, in bucket order."""
    gains = []
    for bucket in buckets:
        size = bucket.stop - bucket.start
        chunks = -(-size // bucket.batch)
        positions = bucket.start + jnp.minimum(jnp.arange(chunks * bucket.batch), size - 1)
        chunked = jax.lax.map(
            lambda p, length=bucket.length: _chunk_gains(pool, root, p, length),
            positions.reshape(chunks, bucket.batch),
        )
        gains.append(chunked.reshape(-1)[:size])
    return jnp.concatenate(gains)


def _is_open(pool: Pool, state: State) -> Bool[Array, "N"]:
    return ~state.taken & (pool.cost <= state.remaining)


def _bucket_of(position: Int[Array, ""], buckets: tuple[Bucket, ...]) -> Int[Array, ""]:
    return sum((position >= b.start for b in buckets[1:]), start=jnp.zeros((), jnp.int32))


def _best_of(
    keys: Float[Array, "n"], index: Int[Array, "n"], positions: Int[Array, "n"]
) -> Best:
    """Largest key; among equal ones the lowest index."""
    key = jnp.max(keys)
    tied = jnp.where(keys == key, index, jnp.iinfo(jnp.int32).max)
    lowest = jnp.min(tied)
    position = jnp.max(jnp.where(tied == lowest, positions, -1))
    return Best(key, lowest, position)


def _find_naive(pool: Pool, state: State, buckets: tuple[Bucket, ...]) -> tuple[State, Array]:
    """Algorithm 1: evaluate every candidate."""
    gains = all_gains(pool, state.root, buckets)
    keys = jnp.where(_is_open(pool, state), gains / pool.cost.astype(gains.dtype), -jnp.inf)
    best = _best_of(keys, pool.index, jnp.arange(len(keys), dtype=jnp.int32))
    return state._replace(bounds=gains), best.position


def _find_lazy(pool: Pool, state: State, buckets: tuple[Bucket, ...]) -> tuple[State, Array]:
    """Algorithm 2: gains only fall, so an old gain is a bound; evaluate while one is in reach.

    Evaluated are all candidates whose bound reaches the best evaluated gain (less a slack for
    rounding), and those whose bound equals it and whose index is lower, a batch of one bucket at
    a time. So the choice is Algorithm 1's, ties included.
    """
    n, dtype = len(pool.start), state.bounds.dtype
    everyone = jnp.arange(n, dtype=jnp.int32)
    cost = pool.cost.astype(dtype)
    is_open = _is_open(pool, state)
    reach = 1 - BOUND_SLACK[dtype.name]
    width = max(b.batch for b in buckets)

    def in_reach(bounds, stamp, best: Best) -> Float[Array, "N"]:
        """Keys of the candidates to evaluate, -inf for the others."""
        keys = bounds / cost
        tied = keys == best.key
        near = (keys >= best.key * reach) & ~tied | tied & (pool.index < best.index)
        return jnp.where(is_open & (stamp != state.count) & near, keys, -jnp.inf)

    def branch(bucket: Bucket):
        pad = (0, width - bucket.batch)

        def evaluate(keys):
            top, offset = jax.lax.top_k(keys[bucket.start : bucket.stop], bucket.batch)
            positions = bucket.start + offset.astype(jnp.int32)
            gains = _chunk_gains(pool, state.root, positions, bucket.length)
            positions = jnp.where(top > -jnp.inf, positions, n)  # n: nothing to evaluate
            return jnp.pad(positions, pad, constant_values=n), jnp.pad(gains, pad)

        return evaluate

    def body(carry):
        bounds, stamp, best, keys = carry
        tops = jnp.stack([jnp.max(keys[b.start : b.stop]) for b in buckets])
        positions, gains = jax.lax.switch(jnp.argmax(tops), [branch(b) for b in buckets], keys)
        bounds = bounds.at[positions].set(gains, mode="drop")
        stamp = stamp.at[positions].set(state.count, mode="drop")
        inside = jnp.minimum(positions, n - 1)
        ratios = jnp.where(positions < n, gains / cost[inside], -jnp.inf)
        found = _best_of(ratios, pool.index[inside], inside)
        better = (found.key > best.key) | (found.key == best.key) & (found.index < best.index)
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), found, best)
        return bounds, stamp, best, in_reach(bounds, stamp, best)

    fresh = is_open & (state.stamp == state.count)
    best = _best_of(jnp.where(fresh, state.bounds / cost, -jnp.inf), pool.index, everyone)
    carry = (state.bounds, state.stamp, best, in_reach(state.bounds, state.stamp, best))
    carry = jax.lax.while_loop(lambda c: jnp.max(c[-1]) > -jnp.inf, body, carry)
    bounds, stamp, best, _ = carry
    return state._replace(bounds=bounds, stamp=stamp), best.position


def _choose(
    pool: Pool, state: State, position: Int[Array, ""], buckets: tuple[Bucket, ...]
) -> State:
    def branch(bucket: Bucket):
        def update(root):
            x_MxD = _rows(pool, position[None], bucket.length)[0]
            return update_root(root, jnp.matmul(x_MxD, root, precision=HIGHEST))

        return update

    return state._replace(
        root=jax.lax.switch(_bucket_of(position, buckets), [branch(b) for b in buckets], state.root),
        taken=state.taken.at[position].set(True),
        remaining=state.remaining - pool.cost[position],
        count=state.count + 1,
        ranking=state.ranking.at[state.count].set(pool.index[position]),
        gains=state.gains.at[state.count].set(state.bounds[position]),
    )
