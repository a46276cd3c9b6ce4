"""What both model families share: a stack of equal layers under one scan, causal attention."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

LONG_QUERIES = 1024  # attention over more positions goes block by block, so memory stays linear

Layer = TypeVar("Layer", bound=nnx.Module)


def stack(make_layer: Callable[[nnx.Rngs], Layer], n_layers: int, rngs: nnx.Rngs) -> Layer:
    """`n_layers` layers as one module whose parameters have a leading layer axis."""
    return nnx.split_rngs(splits=n_layers)(nnx.vmap(make_layer))(rngs)


def apply_stack(layers: nnx.Module, x_BxTxD: Array, *args: Array) -> Array:
    """The layers one after the other, compiled once."""
    graph, state = nnx.split(layers)

    def step(x_BxTxD, layer_state):
        return nnx.merge(graph, layer_state)(x_BxTxD, *args), None

    return jax.lax.scan(step, x_BxTxD, state)[0]


@jax.default_matmul_precision("highest")
def causal_attention(
    q_BxTxHxE: Float[Array, "B T H E"],
    k_BxTxGxE: Float[Array, "B T G E"],
    v_BxTxGxE: Float[Array, "B T G E"],
) -> Float[Array, "B T H E"]:
    """softmax(q k^T / sqrt(E)) v over positions up to each query's own; G divides H."""
    length = q_BxTxHxE.shape[1]
    if length <= LONG_QUERIES:
        return jax.nn.dot_product_attention(q_BxTxHxE, k_BxTxGxE, v_BxTxGxE, is_causal=True)
    blocks = -(-length // LONG_QUERIES)
    padding = blocks * LONG_QUERIES - length
    q = jnp.pad(q_BxTxHxE, ((0, 0), (0, padding), (0, 0), (0, 0)))
    q = q.reshape(q.shape[0], blocks, LONG_QUERIES, *q.shape[2:]).swapaxes(0, 1)
    key_at = jnp.arange(length)

    def attend(block):
        first, q_block = block
        mask = key_at <= (first + jnp.arange(LONG_QUERIES))[:, None]
        return jax.nn.dot_product_attention(q_block, k_BxTxGxE, v_BxTxGxE, mask=mask[None, None])

    out = jax.lax.map(attend, (jnp.arange(blocks) * LONG_QUERIES, q))
    return out.swapaxes(0, 1).reshape(q_BxTxHxE.shape[0], -1, *q_BxTxHxE.shape[2:])[:, :length]
