"""float32 or float64: what a selection is computed in."""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np

from fisher_jax.design.budget import Budget
from fisher_jax.design.embeddings import TokenEmbeddings, TokenSource, check_squares
from fisher_jax.design.linalg import one_blas_thread
from fisher_jax.util.checks import LEAST_RIDGE
from fisher_jax.util.errors import UserError
from fisher_jax.util.platforms import here

FLOAT32_RIDGES = (1e-3, 1e3)  # of the mean squared norm; outside, float32 gets picks wrong


@contextlib.contextmanager
def computing(
    emb: TokenEmbeddings, ridge: float | int, budget: Budget | None = None
) -> Iterator[TokenEmbeddings]:
    """Precision and threads for a selection from a pool in memory, which may become float64.

    float64 exists where embeddings are such, for ridges out of float32's reach, and for costs that
    are no whole numbers.

    Raises:
        UserError: a ridge below float64's reach, or float64 on a TPU, which has none.
    """
    with in_precision(emb, ridge, budget) as dtype:
        yield emb.as_dtype(dtype)


@contextlib.contextmanager
def in_precision(
    source: TokenSource, ridge: float | int, budget: Budget | None = None
) -> Iterator[np.dtype]:
    """float64 where it is needed, and one BLAS thread; what is computed in.

    Raises:
        UserError: as `computing`.
    """
    dtype = _precision(source.mean_squared_norm(), source.dtype, ridge)
    needs_float64 = dtype == np.float64 or not (budget is None or budget.is_whole)
    if needs_float64 and here().name == "tpu":
        raise UserError(
            "a TPU has no float64: pass float32 embeddings with a ridge from 1e-3 to 1e3 of their "
            "mean squared norm, and whole costs, or set JAX_PLATFORMS=cpu"
        )
    with jax.enable_x64(needs_float64), one_blas_thread():
        yield dtype


def _precision(scale: float, dtype: np.dtype, ridge: float | int) -> np.dtype:
    """That of a selection from embeddings of a mean squared norm and number type.

    Raises:
        UserError: a ridge below float64's reach.
    """
    here()  # refuses a forked process, before any work
    check_squares(scale)
    if ridge < LEAST_RIDGE * scale:
        raise UserError(
            f"ridge must be at least {LEAST_RIDGE:g} of the mean squared norm of the embeddings, "
            f"{scale:.3g}, got {ridge}: below it gains are lost to rounding"
        )
    low, high = FLOAT32_RIDGES
    is_extreme = scale > 0 and not low <= ridge / scale <= high
    return np.dtype(np.float64) if is_extreme else dtype
