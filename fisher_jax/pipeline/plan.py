"""What a request will take: rows, tokens, memory and time, told before the work."""

import functools
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from fisher_jax.design import Budget, budget_in_examples
from fisher_jax.design.projection import check_narrower
from fisher_jax.pipeline.request import OFFERED, Request
from fisher_jax.pipeline.row_values import NO_VALUES, RowValues
from fisher_jax.selectors import SELECTORS
from fisher_jax.util.errors import UserError
from fisher_jax.util.excerpt import counted
from fisher_jax.util.memory import physical_memory
from fisher_jax.util.platforms import check_fits, fits, here


class Plan(NamedTuple):
    """What is to come.

    Attributes:
        rows: to choose from.
        tokens: that they have to learn.
        total: the budget, in rows or in cost, of which the rows have no more.
        share: of the rows, or of their cost, that it buys.
        passes: through the model, to embed; 0 without one.
        memory: bytes at the peak, roughly.
        seconds: until the end, roughly.
        streams: the embeddings are read from the cache as they are needed, because they are too
            large for the memory of this machine or of its device.
    """

    rows: int
    tokens: int
    total: float | int
    share: float
    passes: int
    memory: float
    seconds: float
    streams: bool = False

    def __str__(self) -> str:
        seconds = self.seconds
        about = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
        return (
            f"{counted(self.rows, 'row')}, {counted(self.tokens, 'token')} to learn, "
            + (f"{self.passes:,} forward pass{'es' * (self.passes > 1)}, " if self.passes else "")
            + f"about {self.memory / 2**30:.1f} GiB and {about}."
            + " Selects from the cache, which is larger than memory." * self.streams
        )


def plan(
    request: Request,
    lengths: Int[np.ndarray, "N"],
    costs: Int[np.ndarray, "N"],
    dim: int,
    n_parameters: int = 0,
    n_fed: int = 0,
    n_passes: int = 0,
    values: RowValues = NO_VALUES,
    has_cache: bool = False,
) -> Plan:
    """The plan for rows with `lengths` embeddings to work on and `costs` tokens to learn.

    A model of so many parameters is fed so many tokens in so many passes; 0 where the embeddings
    are ready. With a cache embeddings need not fit into memory, if the selector can read them as it
    needs them.

    Raises:
        UserError: the budget buys nothing, `project_dim` is no smaller width, or this machine has
            less memory than the plan says.
    """
    rows, tokens, price = len(lengths), int(lengths.sum()), _price(values, costs)
    selected_dim = dim
    if request.project_dim is not None:
        check_narrower(request.project_dim, dim, "`project_dim`")
        selected_dim = request.project_dim
    if request.token_budget is None:
        choices = total = budget_in_examples(rows, request.n_samples, request.fraction)
        share = total / rows
    elif request.token_budget < price.min():
        dearest = "the shortest row has {} tokens to learn"
        if values.price is not None:
            dearest = "the cheapest row costs {}"
        raise UserError(
            f"`token_budget={request.token_budget}` buys nothing: {dearest.format(price.min())}, "
            "pass at least that"
        )
    else:
        total = min(request.token_budget, price.sum().item())
        share = total / price.sum().item()
        choices = int(rows * share)
    # some 80 rows of mean length are evaluated for a choice, each times a D x D matrix
    select_flops = 2.0 * selected_dim**2 * tokens / rows * (80 * choices + 3 * 20 * choices)
    seconds = 20 + 1.5 * (2.0 * n_parameters * n_fed + select_flops) / _flops_per_second()
    width = 2 if request.dtype == "bfloat16" else 4
    memory = 4 * tokens * (dim + 1.5 * selected_dim) + width * n_parameters + 2**30
    there, tokens_to_learn = physical_memory(), int(costs.sum())
    divides = all(SELECTORS[name].divides for name in request.asked) and not request.certify
    n_devices = request.devices if divides else 1  # what else there is to do takes one
    streams = has_cache and (memory > there or not fits(lengths, selected_dim, n_devices=n_devices))
    all_stream = all(SELECTORS[name].streams for name in request.asked)
    if streams and all_stream and request.initial is None and not request.certify:
        memory = width * n_parameters + 2.0**31
        if request.devices > 1:
            check_fits(lengths, selected_dim, n_devices=n_devices)
            _check_parts(4.0 * tokens * selected_dim, request.devices, there)
        return Plan(rows, tokens_to_learn, total, share, n_passes, memory, seconds, streams=True)
    if memory > there:
        remedy = "pass a smaller `max_length`, a narrower model or a smaller pool"
        if has_cache:
            names = ", ".join(rule.name for rule in OFFERED if rule.streams)
            remedy += f", or select by one of {names}, without `initial` and `certify`"
        elif n_parameters:
            remedy += f", or `cache=DIR` on a disk with {4e-9 * tokens * dim:.0f} GB"
        raise UserError(
            f"{counted(tokens, 'token')} of width {dim} need about {memory / 2**30:.1f} GiB, this "
            f"machine has {there / 2**30:.1f} GiB: {remedy}"
        )
    check_fits(lengths, selected_dim, n_devices=n_devices)
    return Plan(rows, tokens_to_learn, total, share, n_passes, memory, seconds)


def _check_parts(n_bytes: float, n_devices: int, there: float) -> None:
    """Refuse a pool of which this machine's memory can't hold one device's part at a time.

    Raises:
        UserError: with what it needs.
    """
    needed = n_bytes if here().name == "cpu" else n_bytes / n_devices  # CPUs share one memory
    if needed > there:
        raise UserError(
            f"a part of the embeddings for each of {n_devices} devices needs "
            f"{needed / 2**30:.1f} GiB, this machine has {there / 2**30:.1f} GiB: pass more "
            "`devices`, or one, for which the cache is read as it is needed"
        )


def spending(
    request: Request, costs: Int[np.ndarray, "N"], values: RowValues, total: float | int
) -> dict[str, Any]:
    """What may be spent of `total`, on rows of these tokens to learn, as rules take it.

    Raises:
        UserError: caps of groups that don't allow as much, or are of no group.
    """
    budget: dict[str, Any] = {"n_samples": total}
    if request.token_budget is not None:
        budget = {"token_budget": float(total), "costs": _price(values, costs)}
    if values.group is not None:
        cap = request.group_cap
        if isinstance(cap, Mapping):  # labels of a column are compared as text
            cap = {str(label): most for label, most in cap.items()}
        budget |= {"groups": values.group, "group_cap": cap}
    Budget.over(costs, **budget)
    return budget


def _price(values: RowValues, costs: Int[np.ndarray, "N"]) -> np.ndarray:
    return costs if values.price is None else values.price


def check_enough(request: Request, rows: int, name: object) -> None:
    """Refuse to choose more rows than there are, or from none.

    Raises:
        UserError: with the name of the pool.
    """
    if rows == 0:
        raise UserError(
            f"{name}: all rows are copies of rows of `exclude`, none is left: name another file"
        )
    if request.n_samples is not None and request.n_samples > rows:
        raise UserError(
            f"`n_samples={request.n_samples}`: {name} has {counted(rows, 'row')} to choose from, "
            "ask for at most that"
        )


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
