"""The root of V^-1 computed anew, since updates of it drift."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from fisher_jax.design.embeddings import TokenSource

REFRESH = 8192  # choices between two of them; float32 drifts 2e-5 in 5,000
_ROWS_AT_ONCE = 1 << 14


def fresh_root(
    pool: TokenSource,
    chosen: Int[np.ndarray, "n"],
    ridge: float | int,
    dtype: np.dtype,
    there_TxD: Float[np.ndarray, "T D"] | None = None,
) -> jax.Array:
    """W with `W W^T = V^-1`, V of the ridge, some tokens and the chosen examples; in float64."""
    information = ridge * np.eye(pool.dim)
    parts = (
        [] if there_TxD is None else np.array_split(there_TxD, 1 + len(there_TxD) // _ROWS_AT_ONCE)
    )
    for x in parts:
        add_tokens(information, x)
    ends = np.cumsum(pool.lengths[chosen])
    for some in np.split(chosen, np.flatnonzero(np.diff(ends // _ROWS_AT_ONCE)) + 1):
        if len(some):
            add_tokens(information, pool.read(some))
    factor = np.linalg.cholesky(information)
    return jnp.asarray(np.linalg.inv(factor).T, dtype)


def add_tokens(information: Float[np.ndarray, "D D"], x_TxD: Float[np.ndarray, "T D"]) -> None:
    """`X^T X` joins a float64 information matrix, in place."""
    x = x_TxD.astype(np.float64)
    information += x.T @ x
