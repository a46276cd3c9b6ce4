"""What both model families share: a stack of equal layers under one scan, and attention."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from fisher_jax.design import HIGHEST

LONG_QUERIES = 1024  # attention over more positions goes block by block, so memory stays linear

Layer = TypeVar("Layer", bound=nnx.Module)
Memory = Any  # arrays with a leading layer axis that attention reads and replaces, or None
Attend = Callable[[Array, Array, Array, Memory], tuple[Array, Memory]]  # queries, keys, values


def stack(make_layer: Callable[[nnx.Rngs], Layer], n_layers: int, rngs: nnx.Rngs) -> Layer:
    """`n_layers` layers as one module whose parameters have a leading layer axis."""
    return nnx.split_rngs(splits=n_layers)(nnx.vmap(make_layer))(rngs)


@jax.default_matmul_precision("highest")
def apply_stack(
    layers: nnx.Module,
    x_BxTxD: Array,
    attend: Attend,
    *args: Array,
    memory: Memory = None,
    remat: bool = False,
) -> tuple[Array, Memory]:
    """The layers one after the other, compiled once: `layer(x, attend, *args)`.

    Args:
        layers: as `stack` makes them.
        x_BxTxD: input of the first.
        attend: what the layers do with queries, keys, values and their own part of the memory.
        args: the same for every layer.
        memory: arrays with a leading layer axis, or None.
        remat: recompute a layer's inside in the backward pass instead of storing it.

    Returns:
        The output of the last layer, and the new memory.
    """
    graph, state = nnx.split(layers)

    def step(x_BxTxD, of_layer):
        layer_state, own = of_layer
        kept = []

        def remember(q, k, v):
            out, new = attend(q, k, v, own)
            kept.append(new)
            return out

        return nnx.merge(graph, layer_state)(x_BxTxD, remember, *args), kept[0]

    step = jax.checkpoint(step) if remat else step  # pyright: ignore[reportPrivateImportUsage]
    return jax.lax.scan(step, x_BxTxD, (state, memory))


def looked_up(table: nnx.Embed, ids: Int[Array, "*B"]) -> Float[Array, "*B D"]:
    """Rows of a table in the dtype that it has now; `nnx.Embed` would keep its first one."""
    return jnp.take(table.embedding[...], ids, axis=0)


@jax.custom_vjp
def project(x: Float[Array, "*B I"], kernel_IxO: Float[Array, "I O"]) -> Float[Array, "*B O"]:
    """`x W`, whose backward pass never rearranges the larger of input and cotangent.

    JAX's own rule forms dW^T = g^T x, for which XLA's CPU compiler writes g transposed with the
    activations fused into that loop: a quarter of a LoRA step's backward pass.
    """
    return jnp.matmul(x, kernel_IxO, precision=HIGHEST)


def _project_forward(x: Array, kernel_IxO: Array) -> tuple[Array, tuple[Array, Array]]:
    return project(x, kernel_IxO), (x, kernel_IxO)


def _project_backward(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel_IxO = kept
    x_TxI, g_TxO = (a.reshape(-1, a.shape[-1]) for a in (x, g))
    over_tokens = (((0,), (0,)), ((), ()))
    if x.shape[-1] <= g.shape[-1]:
        kernel_gradient = jax.lax.dot_general(x_TxI, g_TxO, over_tokens, precision=HIGHEST)
    else:
        kernel_gradient = jax.lax.dot_general(g_TxO, x_TxI, over_tokens, precision=HIGHEST).T
    return jnp.matmul(g, kernel_IxO.T, precision=HIGHEST), kernel_gradient


project.defvjp(_project_forward, _project_backward)


def linear_map(
    n_in: int, n_out: int, use_bias: bool = True, *, dtype: DTypeLike, rngs: nnx.Rngs
) -> nnx.Linear:
    """A layer's linear map, by `project`."""
    return nnx.Linear(
        n_in, n_out, use_bias=use_bias, param_dtype=dtype, dot_general=_project, rngs=rngs
    )


def _project(x: Array, kernel_IxO: Array, dimensions: object, **_: object) -> Array:
    return project(x, kernel_IxO)


def whole_rows(q: Array, k: Array, v: Array, memory: None) -> tuple[Array, None]:
    """A row a sequence: every position sees those up to its own."""
    return causal_attention(q, k, v), None


def packed_rows(segments_BxT: Int[Array, "B T"]) -> Attend:
    """Several rows a sequence, told apart by their segment: no position sees another row."""
    length = segments_BxT.shape[1]
    mask_BxTxT = segments_BxT[:, :, None] == segments_BxT[:, None, :]
    mask_BxTxT &= jnp.tril(jnp.ones((length, length), bool))[None]

    def attend(q, k, v, memory):
        return jax.nn.dot_product_attention(q, k, v, mask=mask_BxTxT[:, None]), memory

    return attend


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
