"""I-optimal selection: greedy minimisation of the mean prediction variance."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from fisher_jax.design import greedy
from fisher_jax.design.buckets import Bucket, bucketed, worth
from fisher_jax.design.budget import Budget, Ranking
from fisher_jax.design.device_pool import (
    DevicePool,
    Room,
    first_room,
    is_open,
    make_pool,
    padded_rows,
    spend,
)
from fisher_jax.design.embeddings import TokenEmbeddings
from fisher_jax.design.greedy import Number
from fisher_jax.design.linalg import cholesky_identity_plus, matmul, update_root
from fisher_jax.design.precision import computing
from fisher_jax.util.errors import UserError
from fisher_jax.util.platforms import here
from fisher_jax.util.progress import OnProgress

REFRESH = 64  # choices between evaluations from the root; the updates between them drift
MOST_BYTES = 8 << 30
BLOCK = 8  # tokens of the chosen row that are added at once
UNROLLED = 16  # rows of a Gram matrix up to which elimination is written out
MAX_BUCKETS = 8
FACTORED_ROWS = 128  # of Gram matrices that are factored at once on a CPU, see `Platform`

solve = functools.partial(jax.lax.linalg.triangular_solve, left_side=True, lower=True)


class VarianceState(NamedTuple):
    """What a choice changes: W with `W W^T = V^-1`, and two Gram matrices an example.

    With A = V^-1: `grams` hold X_i A X_i^T and `crosses` hold X_i A Sigma A X_i^T, one padded
    array a bucket.
    """

    root: Float[Array, "D D"]
    grams: tuple[Array, ...]
    crosses: tuple[Array, ...]
    taken: Bool[Array, "N"]
    room: Room
    chosen: Int[Array, ""]
    ranking: Int[Array, "N"]


def least_variance(
    emb: TokenEmbeddings,
    budget: Budget,
    per: np.ndarray,
    *,
    ridge: float | int,
    targets: TokenEmbeddings | None = None,
    on_progress: OnProgress | None = None,
) -> Ranking:
    """The ranking of greedy choices that lower `tr(V^-1 Sigma)` most, Sigma the mean x x^T of the
    targets: the average variance of a linear prediction over them (I-optimality).

    A choice of X lowers it by `tr((I + G)^-1 H)`, `G = X A X^T`, `H = X A Sigma A X^T`, A = V^-1.
    That is not submodular: what a row adds can rise, so old values are no bounds and every row is
    evaluated at every step. G and H of all rows are kept and updated in O(T D M) by products of
    all tokens with D x 2 BLOCK matrices, instead of O(T D^2); their memory is 2 sum_i M_i^2
    numbers, twice that while they are computed afresh.

    Args:
        emb, budget: the pool and what may be spent.
        per: (N,) what a decrease is divided by: ones, or each row's tokens.
        ridge: positive; V = ridge I before the first choice.
        targets: rows whose tokens are to be predicted, centred and scaled as `emb` is; default
            the pool itself.
        on_progress: called now and then with the budget spent so far.

    Raises:
        ValueError: rows so long that the Gram matrices need more than 8 GiB.
    """
    longest = np.minimum(emb.lengths, emb.dim).astype(np.float64)
    needed = 4 * emb.tokens.itemsize * float(np.sum(longest**2))
    if needed > MOST_BYTES:
        raise UserError(
            f"i_optimal keeps two M x M matrices a row, {needed / 2**30:.0f} GiB at least for "
            "this pool: cut rows (max_length), take fewer, or select by 'fisher'"
        )
    capacity, count = budget.most_examples, 0
    total = budget.units[1]
    with computing(emb, ridge, budget) as emb:
        pool, _ = make_pool(emb, budget, per)
        buckets = bucketed(np.asarray(pool.length), worth(emb.tokens.size, MAX_BUCKETS))
        wanted = pool.tokens if targets is None else jnp.asarray(targets.tokens, pool.tokens.dtype)
        sigma = _second_moment(wanted, float(len((targets or emb).tokens)))
        root = greedy.first_root(emb.dim, ridge, pool.tokens.dtype)
        state = VarianceState(
            root=root,
            grams=(),
            crosses=(),
            taken=jnp.zeros(len(emb), bool),
            room=first_room(budget),
            chosen=jnp.zeros((), jnp.int32),
            ranking=jnp.full(len(emb), -1, jnp.int32),
        )
        while count < capacity:
            until = min(capacity, count + REFRESH)
            grams, crosses = _fresh(pool, state.root, sigma, buckets)
            state = state._replace(grams=grams, crosses=crosses)
            state = _advance(pool, state, sigma, until, buckets)
            count = int(state.chosen)
            if on_progress is not None:
                on_progress(int(total - state.room.all))
            if count < until:
                break  # nothing that is left fits
        return np.asarray(state.ranking[:count], np.int64)


@jax.jit
def _second_moment(tokens_TxD: Float[Array, "T D"], n_tokens: Number) -> Float[Array, "D D"]:
    return matmul(tokens_TxD.T, tokens_TxD) / n_tokens


def _at_once(bucket: Bucket) -> int:
    """Rows of a bucket whose Gram matrices are factored together."""
    if here().factors_together:
        return bucket.stop - bucket.start
    return max(1, FACTORED_ROWS // bucket.length)


def _is_small(bucket: Bucket) -> bool:
    """Small Gram matrices are kept as (M, M, B), for the vector unit; others as (B, M, M)."""
    return bucket.length <= UNROLLED


def _padded(bucket: Bucket, pool: DevicePool, values: Float[Array, "T K"]) -> Array:
    """What belongs to each row of a bucket, zeros where it is shorter: (B, M, K) or (M, K, B)."""
    positions = jnp.arange(bucket.start, bucket.stop)
    padded_BxMxK = padded_rows(pool._replace(tokens=values), positions, bucket.length)
    return jnp.moveaxis(padded_BxMxK, 0, 2) if _is_small(bucket) else padded_BxMxK


def _outer(bucket: Bucket, a: Array, b: Array) -> Array:
    """`a b^T` of every row."""
    if _is_small(bucket):
        return sum(a[:, None, k] * b[None, :, k] for k in range(a.shape[1]))  # pyright: ignore
    return matmul(a, jnp.swapaxes(b, 1, 2))


def _transposed(bucket: Bucket, a: Array) -> Array:
    return jnp.swapaxes(a, 0, 1) if _is_small(bucket) else jnp.swapaxes(a, 1, 2)


@functools.partial(jax.jit, static_argnames=("buckets",))
def _fresh(
    pool: DevicePool, root: Array, sigma: Array, buckets: tuple[Bucket, ...]
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """The Gram matrices of all rows from the root alone, a batch of rows at a time."""
    inner_DxD = matmul(root.T, matmul(sigma, root))
    grams, crosses = [], []
    for bucket in buckets:

        def gram_and_cross(position, length=bucket.length):
            x_MxD = padded_rows(pool, position[None], length)[0]
            y_MxD = matmul(x_MxD, root)
            return matmul(y_MxD, y_MxD.T), matmul(matmul(y_MxD, inner_DxD), y_MxD.T)

        positions = jnp.arange(bucket.start, bucket.stop)
        both = jax.lax.map(gram_and_cross, positions, batch_size=_at_once(bucket))
        if _is_small(bucket):
            both = tuple(jnp.moveaxis(m, 0, 2) for m in both)
        grams.append(both[0])
        crosses.append(both[1])
    return tuple(grams), tuple(crosses)


@functools.partial(jax.jit, static_argnames=("buckets",))
def _advance(
    pool: DevicePool, state: VarianceState, sigma: Array, until: Number, buckets: tuple[Bucket, ...]
) -> VarianceState:
    longest = max(b.length for b in buckets)

    def choose(state: VarianceState) -> VarianceState:
        is_candidate = is_open(pool, state.taken, state.room)
        keys = jnp.where(is_candidate, _falls(state, buckets) / pool.per, -jnp.inf)
        position, place = greedy.pick(pool, keys, jnp.max(keys))
        x_MxD = padded_rows(pool, position[None], -(-longest // BLOCK) * BLOCK)[0]

        def add_block(k: Array, state: VarianceState) -> VarianceState:
            x_BxD = jax.lax.dynamic_slice_in_dim(x_MxD, k * BLOCK, BLOCK)
            return _add(pool, state, sigma, x_BxD, buckets)

        state = jax.lax.fori_loop(0, -(-pool.length[position] // BLOCK), add_block, state)
        return state._replace(
            taken=state.taken.at[position].set(True),
            room=spend(state.room, pool.cost[position], pool.group[position]),
            chosen=state.chosen + 1,
            ranking=state.ranking.at[state.chosen].set(place),
        )

    def goes_on(state: VarianceState) -> Bool[Array, ""]:
        is_candidate = is_open(pool, state.taken, state.room)
        return (state.chosen < until) & jnp.any(is_candidate)

    return jax.lax.while_loop(goes_on, choose, state)


def _add(
    pool: DevicePool, state: VarianceState, sigma: Array, x_MxD: Array, buckets: tuple[Bucket, ...]
) -> VarianceState:
    """Tokens X join V. With U and E below, `A' = A - U U^T` and
    `A' Sigma A' = A Sigma A - U E^T - E U^T`."""
    y_MxD = matmul(x_MxD, state.root)
    factor_MxM = cholesky_identity_plus(matmul(y_MxD, y_MxD.T))
    u_DxM = matmul(state.root, solve(factor_MxM, y_MxD).T)
    e_DxM = matmul(state.root, matmul(state.root.T, matmul(sigma, u_DxM)))
    e_DxM -= matmul(u_DxM, matmul(u_DxM.T, matmul(sigma, u_DxM))) / 2
    both_TxK = matmul(pool.tokens, jnp.concatenate([u_DxM, e_DxM], axis=1))
    grams, crosses = [], []
    for bucket, gram, cross in zip(buckets, state.grams, state.crosses, strict=True):
        p, q = jnp.split(_padded(bucket, pool, both_TxK), 2, axis=1 + (not _is_small(bucket)))
        mixed = _outer(bucket, p, q)
        grams.append(gram - _outer(bucket, p, p))
        crosses.append(cross - mixed - _transposed(bucket, mixed))
    return state._replace(
        root=update_root(state.root, y_MxD), grams=tuple(grams), crosses=tuple(crosses)
    )


def _falls(state: VarianceState, buckets: tuple[Bucket, ...]) -> Float[Array, "N"]:
    """The fall of every row, in bucket order, a bucket at a time, for the reason in `Platform`."""

    def branch(bucket: Bucket, gram: Array, cross: Array):
        def fall(gram: Array, cross: Array) -> Array:
            if _is_small(bucket):
                return _fall_of_few(gram, cross)
            return jax.lax.map(
                lambda both: _fall(*both), (gram, cross), batch_size=_at_once(bucket)
            )

        return lambda falls: falls.at[bucket.start : bucket.stop].set(fall(gram, cross))

    branches = [branch(*b) for b in zip(buckets, state.grams, state.crosses, strict=True)]
    falls = jnp.zeros(len(state.taken), state.root.dtype)
    return jax.lax.fori_loop(
        0, len(buckets), lambda k, falls: jax.lax.switch(k, branches, falls), falls
    )


def _fall(gram_MxM: Array, cross_MxM: Array) -> Float[Array, ""]:
    """`tr((I + G)^-1 H)` of a row: what choosing it takes off the mean variance."""
    factor_MxM = cholesky_identity_plus(gram_MxM)
    whole_MxM = solve(factor_MxM, solve(factor_MxM, cross_MxM), transpose_a=True)
    return jnp.maximum(jnp.trace(whole_MxM), 0)


def _fall_of_few(g_MxMxB: Array, h_MxMxB: Array) -> Float[Array, "B"]:
    """The same of many rows, token by token, each conditioned on those before it: fast if short."""
    fall_B = jnp.zeros(g_MxMxB.shape[2], g_MxMxB.dtype)
    while g_MxMxB.shape[0]:
        pivot_B = 1 + g_MxMxB[0, 0]
        fall_B += h_MxMxB[0, 0] / pivot_B
        u_MxB, v_MxB = g_MxMxB[1:, 0] / pivot_B, h_MxMxB[1:, 0]
        w_MxB = v_MxB - u_MxB * h_MxMxB[0, 0] / 2
        mixed_MxMxB = u_MxB[:, None] * w_MxB[None]
        h_MxMxB = h_MxMxB[1:, 1:] - mixed_MxMxB - jnp.swapaxes(mixed_MxMxB, 0, 1)
        g_MxMxB = g_MxMxB[1:, 1:] - u_MxB[:, None] * (u_MxB * pivot_B)[None]
        # fused across steps, the compiler would recompute every earlier one
        g_MxMxB, h_MxMxB = jax.lax.optimization_barrier((g_MxMxB, h_MxMxB))
    return jnp.maximum(fall_B, 0)
