"""The only Cholesky factor, log-determinant, gain and square-root update of the project.

Every product asks for `Precision.HIGHEST`: GPUs and TPUs otherwise multiply float32 in TF32 or
bfloat16, which changes which examples are picked.
"""

import contextlib
import functools
import itertools
import threading
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from threadpoolctl import threadpool_limits

HIGHEST = jax.lax.Precision.HIGHEST
matmul = functools.partial(jnp.matmul, precision=HIGHEST)


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

    The Cholesky factor of I + G loses a small G to rounding, so there the `series` takes its place.
    """
    traces = jnp.sum(trace_terms(gram_MxM), axis=1)
    exact = jnp.sum(log_det_terms(gram_MxM))
    return jnp.maximum(jnp.where(is_small(traces[1]), series(traces), exact), 0)


def whitened_gain(whitened_MxD: Float[Array, "M D"]) -> Float[Array, ""]:
    """Information gain of ONE example in nats, at least 0: `log det(I_M + X V^-1 X^T)`.

    Equal to `log det(V + X^T X) - log det V` (FisherSFT, arXiv 2505.14826, Algorithm 1).

    Args:
        whitened_MxD: Y = X W with `W W^T = V^-1`, V the ridge and the examples chosen so far; rows
            of zeros (padding) change nothing.
    """
    gram_MxM = jax.lax.dot_general(
        whitened_MxD, whitened_MxD, (((1,), (1,)), ((), ())), precision=HIGHEST
    )
    return log_det_identity_plus(gram_MxM)


def log_det_terms(gram_MxM: Float[Array, "M M"]) -> Float[Array, "M"]:
    """M numbers that add to `log det(I + G)`.

    Where G is block diagonal, those of a block add to the block's.
    """
    return 2 * jnp.log(jnp.diagonal(cholesky_identity_plus(gram_MxM)))


def small_log_det_terms(gram_MxMxB: Float[Array, "M M B"]) -> Float[Array, "M B"]:
    """`log_det_terms` of many small matrices at once, by elimination: fast where M is small.

    Token m adds `log(1 + g_mm)`, g what is left of G given the tokens before it.
    """

    def eliminate(m: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        rest_MxMxB, terms_MxB = carry
        row_MxB, left_B = rest_MxMxB[m], jnp.maximum(rest_MxMxB[m, m], 0)
        rest_MxMxB -= rest_MxMxB[:, m, None] * (row_MxB / (1 + left_B)[None])[None]
        return rest_MxMxB, terms_MxB.at[m].set(jnp.log1p(left_B))

    terms_MxB = jnp.zeros(gram_MxMxB.shape[1:], gram_MxMxB.dtype)
    return jax.lax.fori_loop(0, len(gram_MxMxB), eliminate, (gram_MxMxB, terms_MxB))[1]


def trace_terms(gram_MxM: Float[Array, "M M"]) -> Float[Array, "4 M"]:
    """Numbers that add over M to `tr(G)`, `tr(G^2)`, `tr(G^3)`, `tr(G^4)`; of blocks likewise."""
    square_MxM = matmul(gram_MxM, gram_MxM)
    powers = [gram_MxM * gram_MxM, square_MxM * gram_MxM, square_MxM * square_MxM]
    return jnp.stack([jnp.diagonal(gram_MxM), *(jnp.sum(p, axis=1) for p in powers)])


def series(traces: Float[Array, "4 *B"]) -> Float[Array, "*B"]:
    """`log det(I + G)` of a small G: `tr(G) - tr(G^2)/2 + tr(G^3)/3 - tr(G^4)/4`."""
    return traces[0] - traces[1] / 2 + traces[2] / 3 - traces[3] / 4


def is_small(squares: Float[Array, "*B"]) -> Array:
    """By `tr(G^2)`: a norm below eps^(1/4), where the series' error is below eps/5 relative."""
    return squares < jnp.finfo(squares.dtype).eps ** 0.5


def cholesky_identity_plus(gram_MxM: Float[Array, "M M"]) -> Float[Array, "M M"]:
    """Lower factor C of `I + G = C C^T`, G positive semi-definite."""
    eye = jnp.eye(gram_MxM.shape[0], dtype=gram_MxM.dtype)
    return jax.lax.linalg.cholesky(gram_MxM + eye, symmetrize_input=False)


def edges(dim: int, blocks: int) -> list[int]:
    """Where the block columns of a root begin and end: blocks + 1 numbers from 0 to D."""
    return [dim * j // blocks for j in range(blocks + 1)]


def whiten(
    x_RxD: Float[Array, "R D"], root_DxD: Float[Array, "D D"], blocks: int
) -> Float[Array, "R D"]:
    """`Y = X W`, W upper triangular by blocks: (blocks + 1) / (2 blocks) of the whole product."""
    edge = edges(len(root_DxD), blocks)
    columns = [matmul(x_RxD[:, :b], root_DxD[:b, a:b]) for a, b in itertools.pairwise(edge)]
    return jnp.concatenate(columns, axis=1)


def update_root(
    root_DxD: Float[Array, "D D"], whitened_MxD: Float[Array, "M D"], blocks: int = 1
) -> Float[Array, "D D"]:
    """The square root of V^-1 after rows X join V, in O(M D^2).

    With `W W^T = V^-1` and `Y = X W`, returns W' with `W' W'^T = (V + X^T X)^-1`. One block:
    `W' = W A(Y)`, `A(Z) = I - Z^T C^-T (C + I)^-1 Z`, `C C^T = I + Z Z^T` (Andrews' square-root
    filter, 1968). Of several, W is upper triangular by blocks and so is W': with the blocks before
    j in B = I + sum_i Y_i Y_i^T and K = sum_i W_i Y_i^T,
    `W'_j = (W_j - K B^-1 Y_j) A(B^-1/2 Y_j)`, so that `W'^T V' W' = I` block by block.
    """
    solve = functools.partial(jax.lax.linalg.triangular_solve, left_side=True, lower=True)
    eye = jnp.eye(len(whitened_MxD), dtype=root_DxD.dtype)
    before_MxM, cross_DxM = None, None  # the factor of B, and K
    edge, columns = edges(len(root_DxD), blocks), []
    for begin, end in itertools.pairwise(edge):
        y_MxB, w_DxB = whitened_MxD[:, begin:end], root_DxD[:end, begin:end]
        z_MxB, column_DxB = y_MxB, w_DxB
        if before_MxM is not None and cross_DxM is not None:
            z_MxB = solve(before_MxM, y_MxB)
            inner_MxB = solve(before_MxM, z_MxB, transpose_a=True)
            column_DxB = w_DxB.at[:begin].add(-matmul(cross_DxM, inner_MxB))
        factor_MxM = cholesky_identity_plus(matmul(z_MxB, z_MxB.T))
        inner_MxB = solve(factor_MxM, solve(factor_MxM + eye, z_MxB), transpose_a=True)
        column_DxB -= matmul(matmul(column_DxB, z_MxB.T), inner_MxB)
        columns.append(jnp.pad(column_DxB, ((0, len(root_DxD) - end), (0, 0))))
        if end < len(root_DxD):
            added_DxM = matmul(w_DxB, y_MxB.T)
            before_MxM = factor_MxM if before_MxM is None else matmul(before_MxM, factor_MxM)
            if cross_DxM is not None:
                added_DxM = added_DxM.at[:begin].add(cross_DxM)
            cross_DxM = added_DxM
    return jnp.concatenate(columns, axis=1)
