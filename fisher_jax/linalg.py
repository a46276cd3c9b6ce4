"""The only Cholesky factor, log-determinant and square-root update of the project.

Every product asks for `Precision.HIGHEST`: GPUs and TPUs otherwise multiply float32 in TF32 or
bfloat16, which changes which examples are picked.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from threadpoolctl import threadpool_limits

HIGHEST = jax.lax.Precision.HIGHEST


def one_blas_thread() -> threadpool_limits:
    """A context in which OpenBLAS, which factors small matrices on a CPU, has one thread.

    Its others would spin beside XLA's. JAX takes it from SciPy with the first factorisation, and
    only a library that is loaded can be limited.
    """
    import scipy.linalg  # noqa: F401

    return threadpool_limits(1, user_api="blas")


def log_det_identity_plus(gram_MxM: Float[Array, "M M"]) -> Float[Array, ""]:
    """`log det(I + G)` in nats of a positive semi-definite G (M, M); never negative.

    The Cholesky factor of I + G loses a small G to rounding, so below a norm of eps^(1/4) the
    series `tr(G) - tr(G^2)/2 + tr(G^3)/3 - tr(G^4)/4` takes its place, whose truncation error is
    then below eps/5 relative.
    """
    square_MxM = jnp.matmul(gram_MxM, gram_MxM, precision=HIGHEST)
    traces = (
        jnp.trace(gram_MxM),
        jnp.sum(gram_MxM * gram_MxM),
        jnp.sum(square_MxM * gram_MxM),
        jnp.sum(square_MxM * square_MxM),
    )
    series = traces[0] - traces[1] / 2 + traces[2] / 3 - traces[3] / 4
    factor_MxM = cholesky_identity_plus(gram_MxM)
    exact = 2 * jnp.sum(jnp.log(jnp.diagonal(factor_MxM)))
    is_small = traces[1] < jnp.finfo(gram_MxM.dtype).eps ** 0.5
    return jnp.maximum(jnp.where(is_small, series, exact), 0)


def cholesky_identity_plus(gram_MxM: Float[Array, "M M"]) -> Float[Array, "M M"]:
    """Lower factor C of `I + G = C C^T`, G positive semi-definite."""
    eye = jnp.eye(gram_MxM.shape[0], dtype=gram_MxM.dtype)
    return jax.lax.linalg.cholesky(gram_MxM + eye, symmetrize_input=False)


def update_root(
    root_DxD: Float[Array, "D D"], whitened_MxD: Float[Array, "M D"]
) -> Float[Array, "D D"]:
    """The square root of V^-1 after rows X join V, in O(M D^2).

    With `W W^T = V^-1` and `Y = X W`, returns W' with `W' W'^T = (V + X^T X)^-1`:
    `W' = W (I - Y^T C^-T (C + I)^-1 Y)`, `C C^T = I + Y Y^T` (Andrews' square-root filter, 1968).
    """
    gram_MxM = jnp.matmul(whitened_MxD, whitened_MxD.T, precision=HIGHEST)
    factor_MxM = cholesky_identity_plus(gram_MxM)
    eye = jnp.eye(gram_MxM.shape[0], dtype=gram_MxM.dtype)
    solve = jax.lax.linalg.triangular_solve
    inner_MxD = solve(factor_MxM + eye, whitened_MxD, left_side=True, lower=True)
    inner_MxD = solve(factor_MxM, inner_MxD, left_side=True, lower=True, transpose_a=True)
    cross_DxM = jnp.matmul(root_DxD, whitened_MxD.T, precision=HIGHEST)
    return root_DxD - jnp.matmul(cross_DxM, inner_MxD, precision=HIGHEST)
