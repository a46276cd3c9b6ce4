"""Causal attention: of whole rows, of packed rows, within a window, with capped logits."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fisher_jax.models.decoder.linear import capped

LONG_QUERIES = 1024  # attention over more positions goes block by block, so memory stays linear
UNSEEN = -1e30  # logit of what is masked; finite, so that a query that sees nothing gives no NaN


class Limits(NamedTuple):
    """Of a layer's attention.

    Attributes:
        window: how many positions a query sees, its own the last of them; None for all.
        cap: of the logits, see `capped`.
    """

    window: Int[Array, ""] | None = None
    cap: float | None = None


NO_LIMITS = Limits()
Memory = Any  # arrays with a leading layer axis that attention reads and replaces, or None
# of queries, keys, values, a layer's own part of the memory, and its limits
Attend = Callable[[Array, Array, Array, Memory, Limits], tuple[Array, Memory]]


def whole_rows(
    q: Array, k: Array, v: Array, memory: None, limits: Limits = NO_LIMITS
) -> tuple[Array, None]:
    """A row a sequence: every position sees those up to its own."""
    return causal_attention(q, k, v, limits), None


def packed_rows(segments_BxT: Int[Array, "B T"]) -> Attend:
    """Several rows a sequence, told apart by their segment: no position sees another row."""
    position_T = jnp.arange(segments_BxT.shape[1])
    mask_BxTxT = segments_BxT[:, :, None] == segments_BxT[:, None, :]

    def attend(q, k, v, memory, limits):
        seen_TxT = seen(position_T, position_T, limits.window)
        return attention(q, k, v, (mask_BxTxT & seen_TxT[None])[:, None], limits.cap), memory

    return attend


def causal_attention(
    q_BxTxHxE: Float[Array, "B T H E"],
    k_BxTxGxE: Float[Array, "B T G E"],
    v_BxTxGxE: Float[Array, "B T G E"],
    limits: Limits = NO_LIMITS,
) -> Float[Array, "B T H E"]:
    """softmax(q k^T / sqrt(E)) v over positions up to each query's own; G divides H."""
    length = q_BxTxHxE.shape[1]
    key_at = jnp.arange(length)
    if length <= LONG_QUERIES:
        if limits.window is None and limits.cap is None:
            return jax.nn.dot_product_attention(q_BxTxHxE, k_BxTxGxE, v_BxTxGxE, is_causal=True)
        mask = seen(key_at, key_at, limits.window)[None, None]
        return attention(q_BxTxHxE, k_BxTxGxE, v_BxTxGxE, mask, limits.cap)
    blocks = -(-length // LONG_QUERIES)
    padding = blocks * LONG_QUERIES - length
    q = jnp.pad(q_BxTxHxE, ((0, 0), (0, padding), (0, 0), (0, 0)))
    q = q.reshape(q.shape[0], blocks, LONG_QUERIES, *q.shape[2:]).swapaxes(0, 1)

    def attend(block):
        first, q_block = block
        mask = seen(first + jnp.arange(LONG_QUERIES), key_at, limits.window)[None, None]
        return attention(q_block, k_BxTxGxE, v_BxTxGxE, mask, limits.cap)

    out = jax.lax.map(attend, (jnp.arange(blocks) * LONG_QUERIES, q))
    return out.swapaxes(0, 1).reshape(q_BxTxHxE.shape[0], -1, *q_BxTxHxE.shape[2:])[:, :length]


def seen(
    query_at_T: Int[Array, "T"], key_at_S: Int[Array, "S"], window: Int[Array, ""] | None
) -> Bool[Array, "T S"]:
    """Whether a key's position is at most the query's, and in its window."""
    query_at_Tx1 = query_at_T[:, None]
    causal_TxS = key_at_S <= query_at_Tx1
    return causal_TxS if window is None else causal_TxS & (key_at_S > query_at_Tx1 - window)


def attention(
    q_BxTxHxE: Float[Array, "B T H E"],
    k_BxSxGxE: Float[Array, "B S G E"],
    v_BxSxGxE: Float[Array, "B S G E"],
    mask_BxHxTxS: Bool[Array, "#B #H #T #S"],
    cap: float | None = None,
) -> Float[Array, "B T H E"]:
    """softmax(capped(q k^T / sqrt(E))) v where the mask is true; G divides H."""
    if cap is None:
        return jax.nn.dot_product_attention(q_BxTxHxE, k_BxSxGxE, v_BxSxGxE, mask=mask_BxHxTxS)
    *rows, n_heads, head_dim = q_BxTxHxE.shape
    groups = k_BxSxGxE.shape[2]
    q_BxTxGxRxE = q_BxTxHxE.reshape(*rows, groups, n_heads // groups, head_dim)
    logits_BxGxRxTxS = jnp.einsum(
        "btgre,bsge->bgrts", q_BxTxGxRxE, k_BxSxGxE, preferred_element_type=jnp.float32
    )
    logits_BxGxRxTxS = capped(logits_BxGxRxTxS / head_dim**0.5, cap)
    logits_BxGxRxTxS = jnp.where(mask_BxHxTxS[:, :, None], logits_BxGxRxTxS, UNSEEN)
    p_BxGxRxTxS = jax.nn.softmax(logits_BxGxRxTxS).astype(v_BxSxGxE.dtype)
    return jnp.einsum("bgrts,bsge->btgre", p_BxGxRxTxS, v_BxSxGxE).reshape(q_BxTxHxE.shape)
