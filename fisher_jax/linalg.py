"""The only Cholesky factor, log-determinant and square-root update of the project.

Every product asks for `Precision.HIGHEST`: GPUs and TPUs otherwise multiply float32 in TF32 or
bfloat16, which changes which examples are picked.
"""

import contextlib
import threading
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from threadpoolctl import threadpool_limits

HIGHEST = jax.lax.Precision.HIGHEST


class _ProcessLimit:
    """One BLAS thread from when the first user enters until the last one leaves.

    A thread of its own sets the limit and lifts it: threadpoolctl lets no other thread than the
    one that set it do so, and the last user need not be the first.
    """

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                is_set, self._is_over = threading.Event(), threading.Event()
                self._holder = threading.Thread(
                    target=self._hold, args=(is_set, self._is_over), daemon=True
                )
                self._holder.start()
                is_set.wait()
            self._users += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._is_over.set()
                self._holder.join()

    def _hold(self, is_set: threading.Event, is_over: threading.Event) -> None:
        try:
            with threadpool_limits(1, user_api="blas"):
                is_set.set()
                is_over.wait()
        finally:
            is_set.set()


_PROCESS_LIMIT = _ProcessLimit()


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """A context in which OpenBLAS, which factors small matrices on a CPU, has one thread.

    Its others would spin beside XLA's. JAX takes it from SciPy with the first factorisation, and
    only a library that is loaded can be limited. Most builds have one limit for the process: Python
    threads whose contexts overlap share it, and the last to leave brings back what was before.
    """
    import scipy.linalg  # noqa: F401

    with _PROCESS_LIMIT, threadpool_limits(1, user_api="blas"):  # the second for builds on OpenMP
        yield


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
