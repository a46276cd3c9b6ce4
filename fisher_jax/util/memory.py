"""The memory of this machine."""

import os


def physical_memory() -> float:
    """Bytes of this machine, infinite where it doesn't say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return float("inf")
