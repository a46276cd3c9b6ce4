"""An experiment of ours run as its user runs it, its rows counted as they come."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from scripts.accelerator.layout import ROOT
from scripts.accelerator.record import Numbers

PAUSE = 0.2  # seconds between looks


def run(
    name: str, overrides: list[str], folder: Path, seconds: float, keep: Callable[[Numbers], None]
) -> Numbers:
    """Seconds, and after how many of them each row of results.jsonl was there.

    Args:
        name: of the experiment.
        overrides: Hydra's.
        folder: of its results, from which an earlier run's go on.
        seconds: after which it is ended; what it has done stays.
        keep: is told of every new row.

    Raises:
        RuntimeError: it failed.
    """
    results = folder / "results.jsonl"
    command = [sys.executable, "-m", f"experiments.{name}", *overrides, f"hydra.run.dir={folder}"]
    begin, times = time.perf_counter(), []
    known = before = lines_of(results)
    process = subprocess.Popen(command, cwd=ROOT)
    while process.poll() is None and time.perf_counter() - begin < seconds:
        time.sleep(PAUSE)
        rows = lines_of(results)
        times += [round(time.perf_counter() - begin, 1)] * (rows - known)
        if rows > known:
            keep({"rows_before": before, "row_times_s": times, "unfinished": True})
        known = rows
    stopped = process.poll() is None
    if stopped:
        process.kill()
    if process.wait() and not stopped:
        raise RuntimeError(f"{' '.join(command[1:])} ended with code {process.returncode}")
    times += [round(time.perf_counter() - begin, 1)] * (lines_of(results) - known)
    return {
        "command": " ".join(["python", *command[1:-1]]),
        "finished": not stopped,
        "seconds_in_all": round(time.perf_counter() - begin, 1),
        "rows_before": before,
        "row_times_s": times,
    }


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
