"""Where a result comes from: versions, commit, machine."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

PACKAGES = "fisher-jax jax jaxlib flax numpy transformers tokenizers gguf".split()
# of the environment: on what programs run, and how
VARIABLES = "JAX_PLATFORMS CUDA_VISIBLE_DEVICES XLA_FLAGS XLA_PYTHON_CLIENT_MEM_FRACTION".split()


def provenance() -> dict[str, str]:
    """Versions of the packages that decide a result, commit and state of the git tree, machine.

    Of `VARIABLES` those that are set.
    `git_tree` is "changed" where files differ from the commit or are not in it, else "clean".
    """
    import jax  # deferred: a version is asked for without it

    facts = {name: version_of(name) for name in PACKAGES}
    facts |= {"python": platform.python_version(), "platform": platform.platform()}
    devices = jax.devices()
    facts["devices"] = f"{len(devices)} x {devices[0].device_kind}"
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line for line in lines if line.startswith("model name"))
        facts["cpu"] = model.split(":")[1].strip()
    facts |= {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
    return facts | _git(Path(__file__).resolve().parents[2])


def version_of(package: str) -> str:
    """The installed version; "unknown" where a package is used from a folder of its files."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _git(root: Path) -> dict[str, str]:
    """Facts of the repository that `root` is the top of; none where it is not."""

    def lines(*arguments: str) -> list[str]:
        command = ["git", *arguments]
        done = subprocess.run(
            command, cwd=root, timeout=10, check=True, capture_output=True, text=True
        )
        return done.stdout.splitlines()

    facts = {}
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        top, commit = lines("rev-parse", "--show-toplevel", "HEAD")
        if Path(top) == root:
            facts["git_commit"] = commit
            facts["git_tree"] = "changed" if lines("status", "--porcelain") else "clean"
    return facts
