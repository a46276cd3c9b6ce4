"""How much one kernel does at a time on each kind of device: `here`, `batch_rows`.

A fixed table, never measured at run time: the same seed gives the same bytes on a device. JAX is
imported when a device is asked for, so that the table is there at once.
"""

import functools
import math
import os
from typing import NamedTuple

import numpy as np

from fisher_jax.util.errors import UserError
from fisher_jax.util.excerpt import one_line

MIN_ROWS, MAX_ROWS = 128, 1 << 17  # tokens of a batch of candidates
FACTOR_WORK = 15_000  # on a token's row of a factor, which is slower
MEMORY_SHARE = 1 / 8  # of the device's memory, for what is computed at a time


class Platform(NamedTuple):
    """Sizes of batches.

    Attributes:
        name: of the table's row, as JAX names the backend.
        batch_cost: floating-point operations that the device could do while it starts one batch of
            candidates: seconds of overhead times rate.
        compile_cost: floating-point operations of a forward pass that the device could do while one
            more shape is compiled: seconds times rate.
        block: least width of a block column of the triangular root of V^-1; the products of
            narrower ones would be slower.
        blocks: most block columns; the update of more costs what their products save.
        update_lengths: that a chosen row is padded to: one more to compile must save more padding.
        factors_together: many small matrices are factored at once. On a CPU one after the other:
            in jaxlib 0.10, batched factorisations that run side by side wait for each other's
            threads for ever where there are few cores.
        in_flight: batches or training steps that are begun before the host waits for the first.
        forward_tokens: of a forward pass, padding included.
        scored_tokens: whose logits over the whole vocabulary are held at a time.
        decoded_rows: continued at a time by `generate`.
        fits: of the softmax model at a time.
        trained_together: fine-tunings in one program.
    """

    name: str
    batch_cost: float
    compile_cost: float
    block: int
    blocks: int
    update_lengths: int
    factors_together: bool
    in_flight: int
    forward_tokens: int
    scored_tokens: int
    decoded_rows: int
    fits: int
    trained_together: int


PLATFORMS = {
    # Measured on two cores of an AMD EPYC: forward passes whose activations stay in the cache are
    # a third faster than ones of 4,096 tokens, and fits in fours than in more. SmolLM2 compiles a
    # shape in 0.5 s and runs at 260 GFLOP/s. Host and device are the same cores: a second batch in
    # flight would gain nothing. batch_cost and blocks gave the fastest selection of 500 of 5,000
    # real rows among a few multiples, D = 576.
    "cpu": Platform(
        "cpu",
        batch_cost=5e7,
        compile_cost=1.4e11,
        block=96,
        blocks=6,
        update_lengths=4,
        factors_together=False,
        in_flight=1,
        forward_tokens=1024,
        scored_tokens=512,
        decoded_rows=16,
        fits=4,
        trained_together=1,
    ),
    # batch_cost by a sweep on an H200: 500 of 5,000 rows took 0.83 and 0.81 ms a choice at an
    # eighth and at twice of it, 0.97 at eight times, 1.49 at a 128th. The others are a model of an
    # H100: 2 s to compile a shape.
    "gpu": Platform(
        "gpu",
        batch_cost=7e9,
        compile_cost=1e14,
        block=512,
        blocks=4,
        update_lengths=2,
        factors_together=True,
        in_flight=2,
        forward_tokens=1 << 16,
        scored_tokens=1 << 12,
        decoded_rows=256,
        fits=256,
        trained_together=16,
    ),
}
PLATFORMS["tpu"] = PLATFORMS["gpu"]._replace(name="tpu", batch_cost=3e9)  # a guess, not measured


def check_platform() -> None:
    """Start the devices that `JAX_PLATFORMS` asks for, or those that there are.

    Raises:
        UserError: there are none of that name.
    """
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the second for cuda without its package
        asked = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
        reason = f" ({one_line(error)})" if str(error) else ""
        raise UserError(
            f"JAX can't start the devices that JAX_PLATFORMS={asked or ''} names{reason}: leave "
            "the variable out, or pip install 'fisher-jax[cuda]' on a machine with a GPU"
        ) from None


def here() -> Platform:
    """The row of the table for the device that JAX computes on; of an unknown one the GPU's.

    Raises:
        RuntimeError: in a process forked from one that has used JAX, whose threads don't exist
            there: the first computation would wait for them for ever.
    """
    import jax

    if _first_process() != os.getpid():
        raise RuntimeError(
            "this process was forked after JAX had started its threads, so it would wait for ever: "
            "start it with multiprocessing.get_context('spawn')"
        )
    return PLATFORMS.get(jax.default_backend(), PLATFORMS["gpu"])


@functools.cache
def _first_process() -> int:
    """That which asked first; a fork of it inherits the answer, but not JAX's threads."""
    return os.getpid()


def batch_rows(n_tokens: int, dim: int, longest: int) -> int:
    """Tokens of a batch of candidates: `2^round(log2(sqrt(T / 64 C / w)))`, C the batch's cost.

    w is the work on a token: its product, its row of a Gram matrix and of the factor. A
    selection evaluates about a 64th of the pool's tokens a choice. Larger batches
    evaluate more in vain, smaller ones pay C more often; the sum of both, `R w + T / 64 C / R`, is
    least at this R. A batch holds its tokens, their products and Gram matrices.
    """
    work = dim**2 + 2 * longest * dim + FACTOR_WORK
    rows = math.sqrt(n_tokens / 64 * here().batch_cost / work)
    rows = 2 ** round(math.log2(max(rows, MIN_ROWS)))
    return within_memory(min(rows, MAX_ROWS), 4.0 * (2 * dim + longest))


def scored_tokens(n_labels: int) -> int:
    """Tokens whose logits over so many labels are held at a time; three arrays of that size are."""
    return within_memory(here().scored_tokens, 3 * 4.0 * n_labels)


def check_fits(lengths: np.ndarray, dim: int, n_bytes: int = 4, n_devices: int = 1) -> None:
    """Refuse a pool whose embeddings its devices can't hold; a row has at most D of them there.

    Raises:
        ValueError: with what it needs and what there is.
    """
    if fits(lengths, dim, n_bytes, n_devices):
        return
    n_tokens = int(np.minimum(lengths, dim).sum())
    if n_tokens / n_devices >= 2**31:  # places of tokens are int32
        raise UserError(
            f"the pool has {n_tokens:,} tokens, at most 2^31 - 1 can be selected from on a device"
        )
    needed = n_tokens * dim * n_bytes / n_devices
    raise UserError(
        f"the pool's embeddings need {needed / 1e9:.1f} GB on the device, which has "
        f"{_memory() / 1e9:.1f} GB: shorten rows (max_length), leave out copies, or select on the "
        "CPU (JAX_PLATFORMS=cpu)"
    )


def fits(lengths: np.ndarray, dim: int, n_bytes: int = 4, n_devices: int = 1) -> bool:
    """Whether its devices can hold a pool's embeddings, and count them."""
    n_tokens = int(np.minimum(lengths, dim).sum())
    room = _memory() * (1 - 2 * MEMORY_SHARE)
    n_tokens /= n_devices
    return n_tokens < 2**31 and n_tokens * dim * n_bytes <= room


def within_memory(wanted: int, bytes_each: float) -> int:
    """`wanted`, or as many as an eighth of the device's memory holds if those are fewer; 1 or more.

    A device that doesn't tell its memory, such as a CPU, gives `wanted`.
    """
    return max(1, int(min(wanted, MEMORY_SHARE * _memory() / bytes_each)))


def _memory() -> float:
    """Bytes that the device has for arrays, infinite where it doesn't tell."""
    import jax

    stats = jax.local_devices()[0].memory_stats() or {}
    return float(stats.get("bytes_limit") or "inf")
