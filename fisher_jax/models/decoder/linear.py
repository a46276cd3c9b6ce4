"""Linear maps in full precision, rows of a table, and capped numbers."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from fisher_jax.design import HIGHEST


def looked_up(table: nnx.Embed, ids: Int[Array, "*B"]) -> Float[Array, "*B D"]:
    """Rows of a table in the dtype that it has now; `nnx.Embed` would keep its first one."""
    return jnp.take(table.embedding[...], ids, axis=0)


def capped(x: Float[Array, "*B"], cap: float | None) -> Float[Array, "*B"]:
    """`cap tanh(x / cap)`, between -cap and cap (Gemma 2); x itself without a cap."""
    return x if cap is None else jnp.tanh(x / cap) * cap


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
