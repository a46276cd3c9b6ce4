"""Where a result comes from: versions, commit, machine."""

import contextlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path

import jax

PACKAGES = "fisher-jax jax jaxlib flax numpy transformers tokenizers gguf".split()


def provenance() -> dict[str, str]:
    """Versions of the packages that decide a result, the git commit if there is one, machine.

    A package without metadata (our own, run from its folder) is left out.
    """
    facts = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            facts[name] = importlib.metadata.version(name)
    facts |= {"python": platform.python_version(), "platform": platform.platform()}
    devices = jax.devices()
    facts["devices"] = f"{len(devices)} x {devices[0].device_kind}"
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line for line in lines if line.startswith("model name"))
        facts["cpu"] = model.split(":")[1].strip()
    here = Path(__file__).parent
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        top = subprocess.run(
            ["git", "rev-parse", "--show-toplevel", "HEAD"],
            cwd=here,
            timeout=10,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()
        if Path(top[0]) == here.parent:
            facts["git_commit"] = top[1]
    return facts
