"""Load: threads and processes side by side, one core, eight virtual devices."""

import hashlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

import fisher_jax as fj
from faults.case import Case, Trial
from faults.processes import started
from tests.helpers.references import random_pool

ROUNDS = 20
SECONDS = 30  # of threads that select, each round: ten minutes in all
THREADS = 8


def cases(seed: int) -> Iterator[Case]:
    """Each kind in turn."""
    with tempfile.TemporaryDirectory(prefix="faults") as name:
        cache = Path(name)
        virtual = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
        kinds: dict[str, Callable[[Trial, int], None]] = {
            "8 threads": threads,
            "2 processes": lambda t, s: processes(t, s, cache, [[], []], {}),
            "one core": lambda t, s: processes(t, s, cache, [["--one-core"]], {}),
            "8 virtual devices": lambda t, s: processes(t, s, cache, [["--mesh"]], virtual),
        }
        for k in range(ROUNDS):
            for kind, run in kinds.items():
                yield Case(kind, f"{kind} {k}", lambda t, run=run, k=k: run(t, seed + k))


def chosen(seed: int, mesh: Mesh | None = None) -> str:
    """A digest of the rankings of a few selections."""
    digest = hashlib.sha256()
    for k in range(5):
        emb = fj.TokenEmbeddings.from_list(random_pool(seed * 100 + k, 64, [1, 3, 8], 6))
        for method in ("lazy", "naive"):
            found = fj.select(emb, n_samples=16, method=method, mesh=mesh)
            digest.update(np.ascontiguousarray(found.ranking).tobytes())
    return digest.hexdigest()


def threads(trial: Trial, seed: int) -> None:
    """Threads that select at once all choose what one alone does."""
    expected = chosen(seed)
    until = time.monotonic() + SECONDS
    lock = threading.Lock()

    def work(_: int) -> None:
        while time.monotonic() < until:
            same = chosen(seed) == expected
            with lock:
                trial.check(same, f"{seed}: another ranking in a thread")

    with ThreadPoolExecutor(THREADS) as executor:
        list(executor.map(work, range(THREADS)))


def processes(
    trial: Trial, seed: int, cache: Path, options: list[list[str]], more: dict[str, str]
) -> None:
    """Processes at once choose what this one does."""
    argvs = [["-m", "faults.load", seed, cache / f"{k}", *own] for k, own in enumerate(options)]
    found = [start_and_wait(argvs, cache, more)]
    for code, _ in found[0]:
        trial.check(code == 0, f"exit code {code}")
    for k in range(len(argvs)):
        path = cache / f"{k}"
        told = path.read_text() if path.exists() else "nothing"
        trial.check(told == chosen(seed), f"{seed}: another ranking in process {k}: {told}")
        path.unlink(missing_ok=True)


def start_and_wait(
    argvs: list[list[object]], cache: Path, more: dict[str, str]
) -> list[tuple[int, str]]:
    """Exit codes and messages of processes side by side."""

    def one(argv: list[object]) -> tuple[int, str]:
        with started(argv, cache, more) as process:
            _, messages = process.communicate(timeout=600)
        return process.returncode, messages.decode()

    with ThreadPoolExecutor(len(argvs)) as executor:
        return list(executor.map(one, argvs))


if __name__ == "__main__":
    if "--one-core" in sys.argv and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    mesh = Mesh(np.array(jax.devices()), ("data",)) if "--mesh" in sys.argv else None
    Path(sys.argv[2]).write_text(chosen(int(sys.argv[1]), mesh))
