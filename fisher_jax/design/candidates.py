"""Gains of a batch of candidates: one product for all lengths, Gram matrices side by side in tiles.

A tile is a square Gram matrix of `length` rows, the longest candidate's. Shorter candidates share
one: of G = Y Y^T what lies between two of them is set to zero, so the factor of I + G is theirs one
after the other. So every batch has one shape, whatever lengths come together.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from fisher_jax.design.buckets import worth
from fisher_jax.design.linalg import (
    HIGHEST,
    is_small,
    log_det_terms,
    series,
    small_log_det_terms,
    trace_terms,
    whiten,
)
from fisher_jax.util.platforms import batch_rows, here

SHARES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 64)  # candidates that a tile may hold
TILED = 1.125  # tokens of the tiles over those of the product: room for what shares leave free
SMALL = 16  # rows of a tile up to which a CPU eliminates in many tiles at once
KINDS = 3  # of batches, by length, that a pool has at most
WORTH = 0.9  # of the work that one more kind must leave, to be worth its compilation


class Batch(NamedTuple):
    """The shape of a batch; static in every compiled program.

    It takes examples `start:stop` of a pool that is sorted by length.

    Attributes:
        length: of the longest, the side of a tile.
        rows: tokens of the product.
        tiles: their number.
        width: candidates at most.
        blocks: block columns of the root.
        together: the tiles are factored at once, not one after the other.
    """

    start: int
    stop: int
    length: int
    rows: int
    tiles: int
    width: int
    blocks: int
    together: bool


def batches(lengths: Int[np.ndarray, "N"], dim: int) -> tuple[Batch, ...]:
    """The batches of a pool with these ascending lengths, sized to the device: one, or a few."""
    return tuple(_batch(lengths, a, b, dim) for a, b in _kinds(lengths, dim))


def _kinds(lengths: Int[np.ndarray, "N"], dim: int) -> list[tuple[int, int]]:
    """Where to divide the pool: a token costs D for its product and the tile's side for the rest.

    So a few long rows do not make the tiles of all others large.
    """

    def cost(start: int, stop: int) -> float:
        return float(lengths[start:stop].sum()) * (dim + 2 * int(lengths[stop - 1]))

    kinds = [(0, len(lengths))]
    ends = np.unique(np.searchsorted(lengths, np.unique(lengths), side="right"))[:-1]
    most = worth(int(lengths.sum()) * dim, KINDS)
    while len(kinds) < most and len(ends):
        start, stop = kinds[0]  # the shortest: long rows are cut off
        inside = ends[ends < stop][:: max(1, len(ends) // 64)]
        if not len(inside):
            break
        costs = [cost(start, int(end)) + cost(int(end), stop) for end in inside]
        if min(costs) > WORTH * cost(start, stop):
            break
        end = int(inside[int(np.argmin(costs))])
        kinds[:1] = [(start, end), (end, stop)]
    return kinds


def _batch(lengths: Int[np.ndarray, "N"], start: int, stop: int, dim: int) -> Batch:
    own, platform = lengths[start:stop], here()
    longest, n_tokens = int(own[-1]), int(own.sum())
    rows = max(longest, min(n_tokens, batch_rows(int(lengths.sum()), dim, longest)))
    return Batch(
        start=start,
        stop=stop,
        length=longest,
        rows=rows,
        tiles=-(-int(TILED * rows) // longest),
        width=int(min(stop - start, max(1, -(-2 * rows * len(own) // n_tokens)))),
        blocks=max(1, min(platform.blocks, dim // platform.block)),
        together=platform.factors_together,
    )


class Layout(NamedTuple):
    """Where each of C candidates stands: its first row of the product and of the tiles.

    `is_in` are those that there was room for; the others have length 0.
    """

    is_in: Bool[Array, "C"]
    length: Int[Array, "C"]
    row: Int[Array, "C"]
    place: Int[Array, "C"]


def layout(length_C: Int[Array, "C"], batch: Batch) -> Layout:
    """Rooms for the first candidates that fit; those of length 0 are none.

    A candidate takes the smallest share of a tile that it fits into, and tiles are filled with
    equal shares.
    """
    shares = np.asarray([k for k in SHARES if k <= batch.length], np.int32)
    share_C = jnp.sum(shares[None] * length_C[:, None] <= batch.length, axis=1) - 1
    is_share_CxK = (share_C[:, None] == np.arange(len(shares))[None]) & (length_C > 0)[:, None]
    counted_CxK = jnp.cumsum(is_share_CxK, axis=0, dtype=jnp.int32)
    tiles_CxK = -(-counted_CxK // shares[None])
    end_C = jnp.cumsum(length_C, dtype=jnp.int32)
    fits_C = (jnp.sum(tiles_CxK, axis=1) <= batch.tiles) & (end_C <= batch.rows)
    tiles_K = jnp.max(jnp.where(fits_C[:, None], tiles_CxK, 0), axis=0)
    first_K = jnp.cumsum(tiles_K) - tiles_K
    rank_C = jnp.take_along_axis(counted_CxK, share_C[:, None], axis=1)[:, 0] - 1
    own_C = jnp.asarray(shares)[share_C]
    tile_C = first_K[share_C] + rank_C // own_C
    return Layout(
        is_in=fits_C & (length_C > 0),
        length=jnp.where(fits_C, length_C, 0),
        row=end_C - length_C,
        place=tile_C * batch.length + rank_C % own_C * (batch.length // own_C),
    )


def laid_out(
    first_C: Int[Array, "C"], values_C: Int[Array, "C"], length_C: Array, size: int, longest: int
) -> tuple[Int[Array, "_"], Int[Array, "_"]]:
    """`values + 0, 1, ...` at `first + 0, 1, ...` for each candidate's length, and whose they are.

    Of what belongs to nobody the owner is -1 and the value 0.
    """
    offset = jnp.arange(longest, dtype=jnp.int32)[None]
    at_CxM = jnp.where(offset < length_C[:, None], first_C[:, None] + offset, size)
    owner_CxM = jnp.broadcast_to(jnp.arange(len(first_C), dtype=jnp.int32)[:, None], at_CxM.shape)
    values = jnp.zeros(size, jnp.int32).at[at_CxM].set(values_C[:, None] + offset, mode="drop")
    owner = jnp.full(size, -1, jnp.int32).at[at_CxM].set(owner_CxM, mode="drop")
    return values, owner


def batch_gains(
    tokens_TxD: Float[Array, "T D"],
    start_C: Int[Array, "C"],
    length_C: Int[Array, "C"],
    root: Float[Array, "..."],
    batch: Batch,
) -> tuple[Float[Array, "C"], Bool[Array, "C"]]:
    """Information gains in nats of the first candidates that a batch has room for; which they are.

    A candidate is `length` tokens from `start` on; of length 0 it is none. A scalar root is that
    multiple of the identity.
    """
    rooms = layout(length_C, batch)
    source_R, _ = laid_out(rooms.row, start_C, rooms.length, batch.rows, batch.length)
    x_RxD = tokens_TxD.at[source_R].get(mode="clip").astype(root.dtype)
    y_RxD = x_RxD * root if root.ndim == 0 else whiten(x_RxD, root, batch.blocks)
    n_places = batch.tiles * batch.length
    row_P, owner_P = laid_out(rooms.place, rooms.row, rooms.length, n_places, batch.length)
    tiles = (batch.tiles, batch.length)
    y_BxMxD = y_RxD.at[row_P].get(mode="clip").reshape(*tiles, -1)
    gram_BxMxM = jnp.einsum("bmd,bnd->bmn", y_BxMxD, y_BxMxD, precision=HIGHEST)
    owner_BxM = owner_P.reshape(tiles)
    is_own = (owner_BxM[:, :, None] == owner_BxM[:, None, :]) & (owner_BxM[:, :, None] >= 0)
    gram_BxMxM = jnp.where(is_own, gram_BxMxM, 0)

    def of_candidates(terms: Float[Array, "P *K"]) -> Float[Array, "C *K"]:
        """The sum of each candidate's terms: always in the same order, unlike a scattered sum."""
        offset = jnp.arange(batch.length, dtype=jnp.int32)[None]
        is_token = offset < rooms.length[:, None]
        own = terms.at[rooms.place[:, None] + offset].get(mode="clip")
        is_token = is_token.reshape(*is_token.shape, *(1,) * (terms.ndim - 1))
        return jnp.sum(jnp.where(is_token, own, 0), axis=1)

    gains_C = of_candidates(_log_det_terms(gram_BxMxM, batch.together).reshape(-1))
    squares_C = of_candidates(jnp.sum(gram_BxMxM * gram_BxMxM, axis=2).reshape(-1))
    small_C = rooms.is_in & is_small(squares_C)

    def of_small() -> Array:
        terms_Px4 = jnp.swapaxes(jax.vmap(trace_terms)(gram_BxMxM), 1, 2).reshape(-1, 4)
        return jnp.where(small_C, series(of_candidates(terms_Px4).T), gains_C)

    gains_C = jax.lax.cond(jnp.any(small_C), of_small, lambda: gains_C)
    return jnp.maximum(gains_C, 0), rooms.is_in


def _log_det_terms(gram_BxMxM: Float[Array, "B M M"], together: bool) -> Float[Array, "B M"]:
    if together:
        return jax.vmap(log_det_terms)(gram_BxMxM)
    if gram_BxMxM.shape[1] <= SMALL:
        return small_log_det_terms(jnp.moveaxis(gram_BxMxM, 0, 2)).T
    return jax.lax.map(log_det_terms, gram_BxMxM)
