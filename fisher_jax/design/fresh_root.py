"""The root of V^-1 computed anew, since updates of it drift."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from fisher_jax.design.embeddings import READ_AT_ONCE, TokenSource, pieces

REFRESH = 8192  # choices between two of them; float32 drifts 2e-5 in 5,000


def fresh_root(
    pool: TokenSource,
    chosen: Int[np.ndarray, "n"],
    ridge: float | int,
    dtype: np.dtype,
    there_TxD: Float[np.ndarray, "T D"] | None = None,
) -> jax.Array:
    """W with `W W^T = V^-1`, V of the ridge, some tokens and the chosen examples; in float64."""
    information = ridge * np.eye(pool.dim)
    if there_TxD is not None:
        add_tokens(information, there_TxD)
    for some in pieces(pool, chosen):
        add_tokens(information, pool.read(some))
    factor = np.linalg.cholesky(information)
    return jnp.asarray(np.linalg.inv(factor).T, dtype)


def add_tokens(information: Float[np.ndarray, "D D"], x_TxD: Float[np.ndarray, "T D"]) -> None:
    """`X^T X` joins a float64 information matrix, in place."""
    for begin in range(0, len(x_TxD), READ_AT_ONCE):
        x = x_TxD[begin : begin + READ_AT_ONCE].astype(np.float64)
        information += x.T @ x
