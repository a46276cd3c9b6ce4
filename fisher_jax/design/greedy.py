"""Greedy and lazy greedy maximisation of the information, as one compiled loop.

The public door is `fisher_jax.select`; what stands here takes valid input. On a mesh every device
runs the loop on its part of the pool; root and ranking are the same everywhere. A choice costs two
messages to all: a device's largest key, then its best example with its tokens.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Num

from fisher_jax.design.candidates import Batch, batch_gains
from fisher_jax.design.device_pool import (
    DevicePool,
    Room,
    Shapes,
    is_open,
    keys,
    padded_rows,
    spend,
)
from fisher_jax.design.linalg import (
    cholesky_identity_plus,
    matmul,
    update_root,
    whiten,
    whitened_gain,
)

BOUND_SLACK = {"float32": 1e-4, "float64": 1e-9}  # rounding that a cached bound is allowed
TIE = {"float32": 2e-6, "float64": 1e-12}  # gains that differ by rounding alone are equal

NOBODY = jnp.iinfo(jnp.int32).max  # no example's index

Method = Literal["lazy", "naive"]
Number = float | int | Array  # a Python number, traced inside jit


class State(NamedTuple):
    """What a choice changes. `stamp` is the choice before which a bound was last evaluated.

    `evaluated` counts the gains that were evaluated by each device.
    """

    root: Float[Array, "D D"]
    bounds: Float[Array, "N"]
    stamp: Int[Array, "N"]
    taken: Bool[Array, "N"]
    room: Room
    chosen: Int[Array, ""]
    ranking: Int[Array, "K"]
    gains: Float[Array, "K"]
    evaluated: Int[Array, "_"]


def first_root(dim: int, ridge: float, dtype: DTypeLike) -> Float[Array, "D D"]:
    """W of V = ridge I."""
    return jnp.eye(dim, dtype=dtype) * jnp.asarray(1 / math.sqrt(ridge), dtype)


@functools.partial(jax.jit, static_argnames=("shapes",))
def start(pool: DevicePool, root: Float[Array, "D D"], room: Room, shapes: Shapes) -> State:
    """Nothing chosen, every example's gain evaluated; `root` as `first_root` gives it."""
    n_all = len(pool.start)

    def begin(pool: DevicePool, root: Array) -> State:
        n, dtype = len(pool.start), pool.per.dtype
        return State(
            root=root,
            bounds=all_gains(pool, root[0, 0], shapes),
            stamp=jnp.zeros(n, jnp.int32),
            taken=jnp.zeros(n, bool),
            room=room,
            chosen=jnp.zeros((), jnp.int32),
            ranking=jnp.full(n_all, -1, jnp.int32),
            gains=jnp.zeros(n_all, dtype),
            evaluated=jnp.full(1, n, jnp.int32),
        )

    return _on_devices(begin, shapes)(pool, root)


@functools.partial(jax.jit, static_argnames=("shapes", "method"))
def advance(pool: DevicePool, state: State, until: Number, shapes: Shapes, method: Method) -> State:
    """Choose on, without a word to the host, until `until` are chosen or nothing fits."""
    find = _find_lazy if method == "lazy" else _find_naive

    def choose_on(pool: DevicePool, state: State) -> State:
        def body(carry):
            return _choose(pool, *find(pool, carry[0], shapes), shapes)

        def goes_on(carry):
            state, is_found = carry
            return (state.chosen < until) & is_found

        return jax.lax.while_loop(goes_on, body, (state, jnp.asarray(True)))[0]

    return _on_devices(choose_on, shapes)(pool, state)


@functools.partial(jax.jit, static_argnames=("shapes",))
def replay(
    pool: DevicePool, root: Float[Array, "D D"], positions: Int[Array, "K"], shapes: Shapes
) -> tuple[Float[Array, "D D"], Float[Array, "K"]]:
    """The root after a given sequence (positions in `pool`'s order), and its marginal gains.

    Positions below 0 are padding.
    """

    def gain_and_update(root, position):
        def join(x_MxD):
            y_MxD = whiten(x_MxD, root, shapes.blocks)
            return update_root(root, y_MxD, shapes.blocks), whitened_gain(y_MxD)

        nothing = (root, jnp.zeros((), root.dtype))
        return jax.lax.cond(
            position < 0,
            lambda: nothing,
            lambda: _with_row(_row_of(pool, position), pool.length[position], shapes, join),
        )

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
        whitened_MxD = matmul(x_MxD, root)
        gram_MxM = matmul(whitened_MxD, whitened_MxD.T)
        before_MxM = jnp.tril(cholesky_identity_plus(gram_MxM), -1)
        rest_M = jnp.diagonal(gram_MxM) - jnp.sum(before_MxM**2, axis=1)
        return update_root(root, whitened_MxD), jnp.log1p(jnp.maximum(rest_M, 0))

    return jax.lax.scan(gains_and_update, root, blocks)


@functools.partial(jax.jit, static_argnames=("shapes",))
def all_gains(pool: DevicePool, root: Float[Array, "..."], shapes: Shapes) -> Float[Array, "N"]:
    """Gains of all examples, in `pool`'s order. A scalar root is that multiple of the identity."""
    gains = jnp.zeros(len(pool.start), pool.per.dtype)
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


def pick(
    pool: DevicePool, values: Float[Array, "N"], most: Float[Array, ""]
) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """Position and place in the given pool of the example whose key is `most`, the largest.

    Among those that rounding can't tell apart it is the one of the lowest index; the place is
    `NOBODY` where none is.
    """
    tied = values >= most * (1 - TIE[values.dtype.name])
    places = jnp.where(tied, pool.original, NOBODY)
    return jnp.argmin(places).astype(jnp.int32), jnp.min(places)


def _on_devices(function: Callable[..., State], shapes: Shapes) -> Callable[..., State]:
    """A function of the pool, and of a root or a State, that runs on every device of a mesh."""
    if shapes.mesh is None:
        return function
    part, whole = PartitionSpec(shapes.mesh.axis_names[0]), PartitionSpec()
    divided = ("bounds", "stamp", "taken", "evaluated")
    state = State._make(part if name in divided else whole for name in State._fields)

    def run(pool: DevicePool, other: Any) -> State:
        mapped = jax.shard_map(
            function,
            mesh=shapes.mesh,
            in_specs=(part, state if isinstance(other, State) else whole),
            out_specs=state,
            check_vma=False,
        )
        return mapped(pool, other)

    return run


def _find_naive(pool: DevicePool, state: State, shapes: Shapes) -> tuple[State, Float[Array, "N"]]:
    """Algorithm 1: evaluate every candidate, if there is one."""
    is_candidate = is_open(pool, state.taken, state.room)

    def evaluate() -> State:
        gains = all_gains(pool, state.root, shapes)
        return state._replace(bounds=gains, evaluated=state.evaluated + len(gains))

    state = jax.lax.cond(jnp.any(is_candidate), evaluate, lambda: state)
    return state, jnp.where(is_candidate, keys(pool, state.bounds), -jnp.inf)


def _find_lazy(pool: DevicePool, state: State, shapes: Shapes) -> tuple[State, Float[Array, "N"]]:
    """Algorithm 2: gains only fall, so an old gain is a bound; evaluate while one is in reach.

    Candidates are evaluated a batch at a time, those of the highest bounds first, while one is in
    reach: its bound is at least the best gain evaluated before this choice, less a slack for
    rounding, and where it equals that gain its index is lower. So the choice is Algorithm 1's, ties
    included. What the last batch has room for beyond them is evaluated too, which costs nothing
    and lowers bounds for later choices. On a mesh each device finds the best of its own.
    """
    n, dtype = len(pool.start), state.bounds.dtype
    is_candidate = is_open(pool, state.taken, state.room)
    reach = 1 - BOUND_SLACK[dtype.name]
    width = max(batch.width for batch in shapes.batches)

    def stale(bounds, stamp, best, index) -> tuple[Array, Array]:
        """Keys of what may be evaluated, -inf for the rest; is one of them in reach?"""
        old = is_candidate & (stamp != state.chosen)
        values = jnp.where(old, keys(pool, bounds), -jnp.inf)
        near = (values >= best * reach) & ((values != best) | (pool.original < index))
        return values, jnp.any(near & (values > -jnp.inf))

    def branch(batch: Batch):
        def evaluate(values):
            top, offset = jax.lax.top_k(values[batch.start : batch.stop], batch.width)
            positions = batch.start + offset.astype(jnp.int32)
            length = jnp.where(top > -jnp.inf, pool.length[positions], 0)
            start = pool.start[positions]
            gains, is_in = batch_gains(pool.tokens, start, length, state.root, batch)
            positions = jnp.where(is_in, positions, n)  # n: nothing was evaluated
            pad = (0, width - batch.width)
            return jnp.pad(positions, pad, constant_values=n), jnp.pad(gains, pad)

        return evaluate

    def body(carry):
        bounds, stamp, best, index, evaluated, values, _ = carry
        tops = jnp.stack([jnp.max(values[batch.start : batch.stop]) for batch in shapes.batches])
        branches = [branch(batch) for batch in shapes.batches]
        positions, gains = jax.lax.switch(jnp.argmax(tops), branches, values)
        bounds = bounds.at[positions].set(gains, mode="drop")
        stamp = stamp.at[positions].set(state.chosen, mode="drop")
        evaluated += jnp.sum(positions < n, dtype=jnp.int32)
        inside = jnp.minimum(positions, n - 1)
        own = (gains + pool.bonus[inside]) / pool.per[inside]
        ratios = jnp.where(positions < n, own, -jnp.inf)
        before, best = best, jnp.maximum(best, jnp.max(ratios))
        first = jnp.min(jnp.where(ratios == best, pool.original[inside], NOBODY))
        index = jnp.minimum(jnp.where(before == best, index, NOBODY), first)
        return bounds, stamp, best, index, evaluated, *stale(bounds, stamp, best, index)

    def fresh_keys(bounds, stamp):
        fresh = is_candidate & (stamp == state.chosen)
        return jnp.where(fresh, keys(pool, bounds), -jnp.inf)

    best = jnp.max(fresh_keys(state.bounds, state.stamp))  # -inf but before the first choice
    carry = (state.bounds, state.stamp, best, jnp.asarray(NOBODY, jnp.int32), state.evaluated)
    carry = (*carry, *stale(*carry[:4]))
    bounds, stamp, _, _, evaluated, *_ = jax.lax.while_loop(lambda carry: carry[-1], body, carry)
    return state._replace(bounds=bounds, stamp=stamp, evaluated=evaluated), fresh_keys(
        bounds, stamp
    )


class _Best(NamedTuple):
    """The example that is chosen, or a device's own candidate for that."""

    place: Int[Array, ""]
    length: Int[Array, ""]
    cost: Num[Array, ""]
    group: Int[Array, ""]
    gain: Float[Array, ""]


def _choose(
    pool: DevicePool, state: State, values: Float[Array, "N"], shapes: Shapes
) -> tuple[State, Bool[Array, ""]]:
    """The example of the largest key joins the chosen ones, if there is one; is there?"""
    axis = None if shapes.mesh is None else shapes.mesh.axis_names[0]
    most = jnp.max(values) if axis is None else jax.lax.pmax(jnp.max(values), axis)
    position, place = pick(pool, values, most)
    best = _Best(
        place=place,
        length=pool.length[position],
        cost=pool.cost[position],
        group=pool.group[position],
        gain=state.bounds[position],
    )
    row = _row_of(pool, position)
    if axis is not None:
        best, tokens_MxD = _best_of_all(best, row(shapes.lengths[-1]), axis)
        row = functools.partial(jax.lax.slice_in_dim, tokens_MxD, 0)
    is_found = most > -jnp.inf
    at = jnp.where(is_found, state.chosen, len(state.ranking))  # beyond the end: nothing is written

    def joined(x_MxD):
        y_MxD = whiten(jnp.where(is_found, x_MxD, 0), state.root, shapes.blocks)
        return update_root(state.root, y_MxD, shapes.blocks)

    is_own = is_found & (best.place == place)
    state = state._replace(
        root=_with_row(row, best.length, shapes, joined),
        taken=state.taken.at[position].set(state.taken[position] | is_own),
        room=spend(state.room, jnp.where(is_found, best.cost, 0), best.group),
        chosen=state.chosen + is_found,
        ranking=state.ranking.at[at].set(best.place, mode="drop"),
        gains=state.gains.at[at].set(best.gain, mode="drop"),
    )
    return state, is_found


def _best_of_all(
    own: _Best, x_MxD: Float[Array, "M D"], axis: str
) -> tuple[_Best, Float[Array, "M D"]]:
    """The devices' candidate of the lowest place and its tokens, by one message of all bits."""
    leaves, structure = jax.tree.flatten((own, x_MxD))
    words = [jax.lax.bitcast_convert_type(leaf, jnp.int32) for leaf in leaves]
    message = jnp.concatenate([word.ravel() for word in words])
    told_PxW = jax.lax.all_gather(message, axis)
    told_W = told_PxW[jnp.argmin(told_PxW[:, 0])]  # by the place, which comes first
    ends = list(itertools.accumulate(word.size for word in words))
    parts = jnp.split(told_W, ends[:-1])
    return structure.unflatten(
        jax.lax.bitcast_convert_type(part.reshape(word.shape), leaf.dtype)
        for part, word, leaf in zip(parts, words, leaves, strict=True)
    )


def _row_of(pool: DevicePool, position: Int[Array, ""]) -> Callable[[int], Float[Array, "M D"]]:
    """The tokens of an example, padded to a length."""
    return lambda length: padded_rows(pool, position[None], length)[0]


def _with_row(
    row: Callable[[int], Array],
    length: Int[Array, ""],
    shapes: Shapes,
    function: Callable[[Array], Any],
) -> Any:
    """A function of one example's tokens, padded to one of the lengths."""
    longer = [length > step for step in shapes.lengths[:-1]]
    which = sum(longer, start=jnp.zeros((), jnp.int32))
    branches = [lambda step=step: function(row(step)) for step in shapes.lengths]
    return jax.lax.switch(which, branches)
