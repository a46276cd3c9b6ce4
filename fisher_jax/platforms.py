"""How much one kernel does at a time on each kind of device: `here`, `batch_rows`.

A fixed table, never measured at run time: the same seed gives the same bytes on a device.
"""

import math
import os
from typing import NamedTuple

import jax

MIN_ROWS, MAX_ROWS = 128, 1 << 17  # tokens of a batch of candidates
MEMORY_SHARE = 1 / 8  # of the device's, for a batch


class Platform(NamedTuple):
    """Sizes of batches.

    Attributes:
        name: of the table's row, as JAX names the backend.
        batch_cost: floating-point operations that the device could do while it starts one batch of
            candidates: seconds of overhead times rate.
        block: least width of a block column of the triangular root of V^-1; the products of
            narrower ones would be slower.
        update_lengths: that a chosen row is padded to: one more to compile must save more padding.
        factors_together: many small matrices are factored at once. On a CPU one after the other:
            in jaxlib 0.10, batched factorisations that run side by side wait for each other's
            threads for ever where there are few cores.
        forward_tokens: of a forward pass, padding included.
        decoded_rows: continued at a time by `generate`.
        fits: of the softmax model at a time.
    """

    name: str
    batch_cost: float
    block: int
    update_lengths: int
    factors_together: bool
    forward_tokens: int
    decoded_rows: int
    fits: int


PLATFORMS = {
    # Measured on two cores of an AMD EPYC: forward passes whose activations stay in the cache are
    # a third faster than ones of 4,096 tokens, and fits in fours than in more.
    "cpu": Platform("cpu", 2.5e7, 144, 4, False, forward_tokens=1024, decoded_rows=16, fits=4),
    # A model of an H100, not measured: 285 microseconds a batch at 50 TFLOP/s.
    "gpu": Platform(
        "gpu", 1.4e10, 512, 2, True, forward_tokens=1 << 16, decoded_rows=256, fits=256
    ),
    # A guess, not measured.
    "tpu": Platform("tpu", 3e9, 512, 2, True, forward_tokens=1 << 16, decoded_rows=256, fits=256),
}


def here() -> Platform:
    """The row of the table for the device that JAX computes on; of an unknown one the GPU's."""
    return PLATFORMS.get(jax.default_backend(), PLATFORMS["gpu"])


def memory() -> int:
    """Bytes that the device has for arrays."""
    statistics = jax.devices()[0].memory_stats()
    if statistics:
        return statistics["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def batch_rows(n_tokens: int, dim: int, longest: int) -> int:
    """Tokens of a batch of candidates: `2^round(log2(sqrt(T / 64 C) / D))`, C the batch's cost.

    A selection evaluates about a 64th of the pool's tokens a choice. Larger batches evaluate more
    of them in vain, smaller ones pay C more often; the sum of both, `R D^2 + T / 64 C / R`, is
    least at this R. A batch holds its tokens, their products and Gram matrices.
    """
    rows = math.sqrt(n_tokens / 64 * here().batch_cost) / dim
    rows = 2 ** round(math.log2(max(rows, MIN_ROWS)))
    most = MEMORY_SHARE * memory() / (4 * (2 * dim + longest))
    return min(rows, MAX_ROWS, 2 ** max(int(math.log2(most)), 0))
