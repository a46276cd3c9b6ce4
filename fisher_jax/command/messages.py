"""What `fisher-select` says while it works, on stderr."""

import argparse
import contextlib
import functools
import os
import sys
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from fisher_jax.command import interruption
from fisher_jax.command.arguments import NAME
from fisher_jax.design import budget_in_examples
from fisher_jax.report import counted
from fisher_jax.util.errors import UserError
from fisher_jax.util.progress import OnProgress


@contextlib.contextmanager
def progress(what: str, total: int, unit: str) -> Iterator[OnProgress]:
    """A bar on stderr with rate and remaining time; the yielded function sets what is done."""
    with tqdm(total=total, desc=what, unit=f" {unit}", file=sys.stderr, mininterval=0.3) as bar:

        def show(done: int) -> None:
            interruption.check()
            bar.update(done - bar.n)

        yield show


def announce(
    args: argparse.Namespace,
    lengths: Int[np.ndarray, "N"],
    costs: Int[np.ndarray, "N"],
    dim: int,
    notes: list[str],
    n_parameters: int = 0,
    n_fed: int = 0,
) -> None:
    """One line of what is to come: rows, tokens, memory and estimated time.

    Rows have `lengths` embeddings to work on, and `costs` tokens to learn, which are paid for; a
    model of so many parameters is fed so many tokens.
    """
    rows, tokens = len(lengths), int(lengths.sum())
    if args.token_budget is None:
        choices = budget_in_examples(rows, args.n_samples, args.fraction)
    elif args.token_budget < costs.min():
        raise UserError(
            f"--token-budget {args.token_budget} buys nothing: the shortest row has "
            f"{costs.min()} tokens to learn, pass at least that"
        )
    else:
        choices = min(rows, args.token_budget * rows // int(costs.sum()))
    # some 80 rows of mean length are evaluated for a choice, each times a D x D matrix
    select_flops = 2.0 * dim**2 * tokens / rows * (80 * choices + 3 * 20 * choices)
    seconds = 20 + 1.5 * (2.0 * n_parameters * n_fed + select_flops) / _flops_per_second()
    width = 2 if args.dtype == "bfloat16" else 4
    memory = (2.5 * 4 * tokens * dim + width * n_parameters) / 2**30 + 1
    needed, there = 4.0 * tokens * dim / 2**30, physical_memory() / 2**30
    if n_parameters and needed > there:  # ready embeddings are in memory already
        raise UserError(
            f"the embeddings of {counted(tokens, 'token')} need {needed:.0f} GiB, this machine has "
            f"{there:.0f} GiB: pass a smaller --max-length, a narrower model or a smaller pool"
        )
    about = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
    print(
        f"{NAME}: {counted(rows, 'row')}, {counted(int(costs.sum()), 'token')} to learn, about "
        f"{memory:.1f} GiB and {about}. {' '.join(notes)}".rstrip(),
        file=sys.stderr,
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
