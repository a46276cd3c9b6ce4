"""Where a user's caches are, and what of this machine they hold for."""

import contextlib
import hashlib
import os
import platform
from pathlib import Path

CACHE_SWITCH = "FISHER_JAX_CACHE"  # "off": commands keep no embeddings there
_CPU_LINES = ("vendor_id", "model name", "flags", "CPU implementer", "CPU part", "Features")


def user_folder() -> Path:
    """`$XDG_CACHE_HOME/fisher_jax`, by default in ~/.cache.

    Raises:
        RuntimeError: nobody's home.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fisher_jax"


def cpu_name() -> str:
    """A short name for make and instructions of this machine's CPU."""
    facts = [platform.system(), platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):  # Linux alone has it
        first, *_ = Path("/proc/cpuinfo").read_text().split("\n\n")
        facts += [line for line in first.splitlines() if line.startswith(_CPU_LINES)]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
