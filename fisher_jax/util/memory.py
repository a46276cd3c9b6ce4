"""The memory of this machine, and of this process."""

import os

from fisher_jax.util.errors import UserError

LEAST_ADDRESS_SPACE = 2.2e9  # bytes; JAX's threads on two cores: with 2.0e9 XLA aborts the process


def physical_memory() -> float:
    """Bytes of this machine, infinite where it doesn't say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return float("inf")


def check_address_space() -> None:
    """Refuse to begin where JAX can't even start its threads.

    Raises:
        UserError: the process is limited to less address space than that.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LEAST_ADDRESS_SPACE:
        raise UserError(
            f"this process may use {limit / 1e9:.1f} GB of address space, JAX and its libraries "
            f"need {LEAST_ADDRESS_SPACE / 1e9} GB and more: raise the limit (ulimit -v unlimited)"
        )
