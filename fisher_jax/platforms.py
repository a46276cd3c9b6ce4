"""How much one kernel does at a time on each kind of device: `here`.

A fixed table, never measured at run time: the same seed gives the same bytes on a device.
"""

from typing import NamedTuple

import jax


class Platform(NamedTuple):
    """Sizes of batches.

    Attributes:
        name: of the table's row, as JAX names the backend.
        batch_cost: floating-point operations that the device could do while it starts one batch of
            candidates: seconds of overhead times rate.
        forward_tokens: of a forward pass, padding included.
        decoded_rows: continued at a time by `generate`.
        fits: of the softmax model at a time.
    """

    name: str
    batch_cost: float
    forward_tokens: int
    decoded_rows: int
    fits: int


PLATFORMS = {
    # Measured on two cores of an AMD EPYC: forward passes whose activations stay in the cache are
    # a third faster than ones of 4,096 tokens, and fits in fours than in more.
    "cpu": Platform("cpu", 2.5e7, forward_tokens=1024, decoded_rows=16, fits=4),
    # A model of an H100, not measured: 285 microseconds a batch at 50 TFLOP/s.
    "gpu": Platform("gpu", 1.4e10, forward_tokens=1 << 16, decoded_rows=256, fits=256),
    # A guess, not measured.
    "tpu": Platform("tpu", 3e9, forward_tokens=1 << 16, decoded_rows=256, fits=256),
}


def here() -> Platform:
    """The row of the table for the device that JAX computes on; of an unknown one the GPU's."""
    return PLATFORMS.get(jax.default_backend(), PLATFORMS["gpu"])
