"""What a request will take: rows, tokens, memory and time, told before the work."""

import functools
import os
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from fisher_jax.design import budget_in_examples
from fisher_jax.pipeline.request import OFFERED, Request
from fisher_jax.selectors import SELECTORS
from fisher_jax.util.errors import UserError
from fisher_jax.util.excerpt import counted
from fisher_jax.util.platforms import check_fits, fits


class Plan(NamedTuple):
    """What is to come.

    Attributes:
        rows: to choose from.
        tokens: that they have to learn.
        total: the budget, in rows or in tokens, of which the rows have no more.
        share: of the rows, or of their tokens, that it buys.
        memory: bytes at the peak, roughly.
        seconds: until the end, roughly.
        streams: the embeddings are read from the cache as they are needed, because they are too
            large for the memory of this machine or of its device.
    """

    rows: int
    tokens: int
    total: int
    share: float
    memory: float
    seconds: float
    streams: bool = False

    def __str__(self) -> str:
        seconds = self.seconds
        about = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
        return (
            f"{counted(self.rows, 'row')}, {counted(self.tokens, 'token')} to learn, about "
            f"{self.memory / 2**30:.1f} GiB and {about}."
            + " Selects from the cache, which is larger than memory."
            * self.streams
        )


def plan(
    request: Request,
    lengths: Int[np.ndarray, "N"],
    costs: Int[np.ndarray, "N"],
    dim: int,
    n_parameters: int = 0,
    n_fed: int = 0,
    has_cache: bool = False,
) -> Plan:
    """The plan for rows with `lengths` embeddings to work on and `costs` tokens to learn.

    A model of so many parameters is fed so many tokens; 0 where the embeddings are ready. With a
    cache embeddings need not fit into memory, if the selector can read them as it needs them.

    Raises:
        UserError: the budget buys nothing, or the embeddings don't fit into memory.
    """
    rows, tokens = len(lengths), int(lengths.sum())
    if request.token_budget is None:
        choices = total = budget_in_examples(rows, request.n_samples, request.fraction)
        share = total / rows
    elif request.token_budget < costs.min():
        raise UserError(
            f"`token_budget={request.token_budget}` buys nothing: the shortest row has "
            f"{costs.min()} tokens to learn, pass at least that"
        )
    else:
        choices = min(rows, request.token_budget * rows // int(costs.sum()))
        total = min(request.token_budget, int(costs.sum()))
        share = total / int(costs.sum())
    # some 80 rows of mean length are evaluated for a choice, each times a D x D matrix
    select_flops = 2.0 * dim**2 * tokens / rows * (80 * choices + 3 * 20 * choices)
    seconds = 20 + 1.5 * (2.0 * n_parameters * n_fed + select_flops) / _flops_per_second()
    width = 2 if request.dtype == "bfloat16" else 4
    memory = 2.5 * 4 * tokens * dim + width * n_parameters + 2**30
    needed, there = 4.0 * tokens * dim, physical_memory()
    streams = has_cache and (memory > there or not fits(lengths, dim))
    if streams and all(SELECTORS[name].streams for name in request.asked):
        memory = width * n_parameters + 2.0**31
        return Plan(rows, int(costs.sum()), total, share, memory, seconds, streams=True)
    if n_parameters and needed > there:  # ready embeddings are in memory already
        remedy = "pass a smaller `max_length`, a narrower model or a smaller pool"
        if has_cache:
            names = ", ".join(rule.name for rule in OFFERED if rule.streams)
            remedy += f", or select by one of {names}"
        else:
            remedy += f", or `cache=DIR` on a disk with {needed / 1e9:.0f} GB"
        raise UserError(
            f"the embeddings of {counted(tokens, 'token')} need {needed / 2**30:.0f} GiB, this "
            f"machine has {there / 2**30:.0f} GiB: {remedy}"
        )
    check_fits(lengths, dim)
    return Plan(rows, int(costs.sum()), total, share, memory, seconds)


def check_enough(request: Request, rows: int, name: object) -> None:
    """Refuse to choose more rows than there are.

    Raises:
        UserError: with the name of the pool.
    """
    if request.n_samples is not None and request.n_samples > rows:
        raise UserError(
            f"`n_samples={request.n_samples}`: {name} has {counted(rows, 'row')} to choose from, "
            "ask for at most that"
        )


def physical_memory() -> float:
    """Bytes of this machine, infinite where it doesn't say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return float("inf")


@functools.cache
def _flops_per_second() -> float:
    """What a product of two matrices reaches here, measured in a moment."""
    x = jnp.ones((1024, 1024))
    product = jax.jit(lambda x: jnp.matmul(x, x, precision="highest"))
    product(x).block_until_ready()
    begin = time.perf_counter()
    for _ in range(5):
        product(x).block_until_ready()
    return 5 * 2 * 1024.0**3 / (time.perf_counter() - begin)
