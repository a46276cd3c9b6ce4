"""Greedy and lazy greedy maximisation of the information, as one compiled loop.

The public door is `fisher_jax.select`; what stands here takes valid input.
"""

import functools
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Num

from fisher_jax.buckets import ladder
from fisher_jax.candidates import Batch, batch_gains, batches
from fisher_jax.design import TokenEmbeddings, whitened_gain
from fisher_jax.linalg import update_root, whiten

UPDATE_LENGTHS = 4  # of a chosen row's padding: one more to compile costs more than it saves
BOUND_SLACK = {"float32": 1e-4, "float64": 1e-9}  # rounding that a cached bound is allowed
TIE = {"float32": 2e-6, "float64": 1e-12}  # gains that differ by rounding alone are equal

Method = Literal["lazy", "naive"]
Number = float | int | Array  # a Python number, traced inside jit


class Shapes(NamedTuple):
    """What is static in the compiled programs: batches of candidates, lengths of a chosen row."""

    batches: tuple[Batch, ...]
    lengths: tuple[int, ...]


class Pool(NamedTuple):
    """A pool on the device, examples sorted by length; `original` is their place in the pool.

    A choice spends `cost` of the budget; the largest gain divided by `per` is chosen.
    """

    tokens: Float[Array, "T D"]
    start: Int[Array, "N"]
    length: Int[Array, "N"]
    original: Int[Array, "N"]
    cost: Num[Array, "N"]
    per: Float[Array, "N"]


class State(NamedTuple):
    """What a choice changes. `stamp` is the choice before which a bound was last evaluated."""

    root: Float[Array, "D D"]
    bounds: Float[Array, "N"]
    stamp: Int[Array, "N"]
    taken: Bool[Array, "N"]
    remaining: Num[Array, ""]
    chosen: Int[Array, ""]
    ranking: Int[Array, "N"]
    gains: Float[Array, "N"]


def make_pool(emb: TokenEmbeddings, costs: np.ndarray, per: np.ndarray) -> tuple[Pool, Shapes]:
    """The pool on the device and its shapes; examples longer than D become D rows."""
    emb = emb.at_most_dim_rows()
    order = np.argsort(emb.lengths, kind="stable")
    lengths = emb.lengths[order]
    pool = Pool(
        tokens=jnp.asarray(emb.tokens),
        start=jnp.asarray(emb.offsets[:-1][order], jnp.int32),
        length=jnp.asarray(lengths, jnp.int32),
        original=jnp.asarray(order, jnp.int32),
        cost=jnp.asarray(costs[order]),
        per=jnp.asarray(per[order], emb.tokens.dtype),
    )
    steps = tuple(int(length) for length in ladder(lengths, UPDATE_LENGTHS))
    return pool, Shapes(batches(lengths, emb.dim), steps)


def first_root(dim: int, ridge: float, dtype: DTypeLike) -> Float[Array, "D D"]:
    """W of V = ridge I."""
    return jnp.eye(dim, dtype=dtype) * jnp.asarray(1 / math.sqrt(ridge), dtype)


@functools.partial(jax.jit, static_argnames=("shapes",))
def start(pool: Pool, root: Float[Array, "D D"], budget: Number, shapes: Shapes) -> State:
    """Nothing chosen, every example's gain evaluated; `root` as `first_root` gives it."""
    n, dtype = len(pool.start), pool.tokens.dtype
    return State(
        root=root,
        bounds=all_gains(pool, root[0, 0], shapes),
        stamp=jnp.zeros(n, jnp.int32),
        taken=jnp.zeros(n, bool),
        remaining=jnp.asarray(budget, pool.cost.dtype),
        chosen=jnp.zeros((), jnp.int32),
        ranking=jnp.full(n, -1, jnp.int32),
        gains=jnp.zeros(n, dtype),
    )


@functools.partial(jax.jit, static_argnames=("shapes", "method"))
def advance(pool: Pool, state: State, until: Number, shapes: Shapes, method: Method) -> State:
    """Choose on, without a word to the host, until `until` are chosen or nothing fits."""
    find = _find_lazy if method == "lazy" else _find_naive

    def body(state: State) -> State:
        state, position = find(pool, state, shapes)
        return _choose(pool, state, position, shapes)

    def goes_on(state: State) -> Bool[Array, ""]:
        return (state.chosen < until) & jnp.any(is_open(pool, state.taken, state.remaining))

    return jax.lax.while_loop(goes_on, body, state)


@functools.partial(jax.jit, static_argnames=("shapes",))
def replay(
    pool: Pool, root: Float[Array, "D D"], positions: Int[Array, "K"], shapes: Shapes
) -> tuple[Float[Array, "D D"], Float[Array, "K"]]:
    """The root after a given sequence (positions in `pool`'s order), and its marginal gains.

    Positions below 0 are padding.
    """

    def gain_and_update(root, position):
        def join(x_MxD):
            y_MxD = whiten(x_MxD, root, shapes.batches[0].blocks)
            return update_root(root, y_MxD, shapes.batches[0].blocks), whitened_gain(y_MxD)

        nothing = (root, jnp.zeros((), root.dtype))
        return jax.lax.cond(
            position < 0, lambda: nothing, lambda: _with_row(pool, position, shapes, join)
        )

    return jax.lax.scan(gain_and_update, root, positions)


def _with_row(pool: Pool, position: Int[Array, ""], shapes: Shapes, function: Callable):
    """A function of one example's tokens, padded to one of the lengths."""

    def branch(length: int):
        return lambda: function(padded_rows(pool, position[None], length)[0])

    shorter = [pool.length[position] > length for length in shapes.lengths[:-1]]
    which = sum(shorter, start=jnp.zeros((), jnp.int32))
    return jax.lax.switch(which, [branch(length) for length in shapes.lengths])


def padded_rows(pool: Pool, positions: Int[Array, "B"], length: int) -> Float[Array, "B M D"]:
    """The embeddings of some examples, padded with rows of zeros to `length`."""
    offset = jnp.arange(length)[None]
    rows = pool.start[positions][:, None] + offset
    x_BxMxD = pool.tokens.at[rows].get(mode="clip")
    return jnp.where((offset < pool.length[positions][:, None])[..., None], x_BxMxD, 0)


@functools.partial(jax.jit, static_argnames=("shapes",))
def all_gains(pool: Pool, root: Float[Array, "..."], shapes: Shapes) -> Float[Array, "N"]:
    """Gains of all examples, in `pool`'s order. A scalar root is that multiple of the identity."""
    gains = jnp.zeros(len(pool.start), pool.tokens.dtype)
    for batch in shapes.batches:

        def evaluate(carry, batch=batch):
            position, gains = carry
            positions = position + jnp.arange(batch.width, dtype=jnp.int32)
            length = jnp.where(positions < batch.stop, pool.length[positions], 0)
            own, is_in = batch_gains(pool.tokens, pool.start[positions], length, root, batch)
            at = jnp.where(is_in, positions, len(gains))
            return position + jnp.sum(is_in, dtype=jnp.int32), gains.at[at].set(own, mode="drop")

        _, gains = jax.lax.while_loop(
            lambda carry, stop=batch.stop: carry[0] < stop,
            evaluate,
            (jnp.asarray(batch.start, jnp.int32), gains),
        )
    return gains


def is_open(pool: Pool, taken: Bool[Array, "N"], remaining: Num[Array, ""]) -> Bool[Array, "N"]:
    """Examples that are not chosen yet and that the rest of the budget pays for."""
    return ~taken & (pool.cost <= remaining)


def pick(pool: Pool, keys: Float[Array, "N"]) -> Int[Array, ""]:
    """Position of the largest key; among those that rounding can't tell apart, lowest index."""
    tied = keys >= jnp.max(keys) * (1 - TIE[keys.dtype.name])
    return jnp.argmin(jnp.where(tied, pool.original, len(keys))).astype(jnp.int32)


def _find_naive(pool: Pool, state: State, shapes: Shapes) -> tuple[State, Array]:
    """Algorithm 1: evaluate every candidate."""
    gains = all_gains(pool, state.root, shapes)
    is_candidate = is_open(pool, state.taken, state.remaining)
    keys = jnp.where(is_candidate, gains / pool.per, -jnp.inf)
    return state._replace(bounds=gains), pick(pool, keys)


def _find_lazy(pool: Pool, state: State, shapes: Shapes) -> tuple[State, Array]:
    """Algorithm 2: gains only fall, so an old gain is a bound; evaluate while one is in reach.

    Evaluated are all candidates whose bound reaches the best gain evaluated before this choice,
    less a slack for rounding, those of the highest bounds first, a batch at a time. A bound that
    equals the best gain counts too if its index is lower. So the choice is Algorithm 1's, ties
    included.
    """
    n, dtype = len(pool.start), state.bounds.dtype
    is_candidate = is_open(pool, state.taken, state.remaining)
    reach = 1 - BOUND_SLACK[dtype.name]
    width = max(batch.width for batch in shapes.batches)

    def in_reach(bounds, stamp, best, index) -> Float[Array, "N"]:
        """Keys of the candidates to evaluate, -inf for the others."""
        keys = bounds / pool.per
        near = (keys >= best * reach) & ((keys != best) | (pool.original < index))
        return jnp.where(is_candidate & (stamp != state.chosen) & near, keys, -jnp.inf)

    def branch(batch: Batch):
        def evaluate(keys):
            top, offset = jax.lax.top_k(keys[batch.start : batch.stop], batch.width)
            positions = batch.start + offset.astype(jnp.int32)
            length = jnp.where(top > -jnp.inf, pool.length[positions], 0)
            gains, is_in = batch_gains(
                pool.tokens, pool.start[positions], length, state.root, batch
            )
            positions = jnp.where(is_in, positions, n)  # n: nothing was evaluated
            pad = (0, width - batch.width)
            return jnp.pad(positions, pad, constant_values=n), jnp.pad(gains, pad)

        return evaluate

    def body(carry):
        bounds, stamp, best, index, keys = carry
        tops = jnp.stack([jnp.max(keys[batch.start : batch.stop]) for batch in shapes.batches])
        branches = [branch(batch) for batch in shapes.batches]
        positions, gains = jax.lax.switch(jnp.argmax(tops), branches, keys)
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


def _choose(pool: Pool, state: State, position: Int[Array, ""], shapes: Shapes) -> State:
    blocks = shapes.batches[0].blocks

    def joined(x_MxD):
        return update_root(state.root, whiten(x_MxD, state.root, blocks), blocks)

    return state._replace(
        root=_with_row(pool, position, shapes, joined),
        taken=state.taken.at[position].set(True),
        remaining=state.remaining - pool.cost[position],
        chosen=state.chosen + 1,
        ranking=state.ranking.at[state.chosen].set(pool.original[position]),
        gains=state.gains.at[state.chosen].set(state.bounds[position]),
    )
