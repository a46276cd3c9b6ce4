"""Programs of the project in processes of their own, disturbed or not."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PATIENCE = 600  # seconds, after which a program hangs


class Ended(NamedTuple):
    """How a program ended: its exit code, minus the signal's number if one ended it.

    `missed` if it had ended before its disturbance.
    """

    code: int
    messages: str
    seconds: float
    missed: bool = False

    @property
    def told_in_a_line(self) -> bool:
        """Exit code 2, and no traceback."""
        return self.code == 2 and "Traceback" not in self.messages and "error: " in self.messages


class Disturbance(NamedTuple):
    """A signal at the k-th rename below a folder (from 1), or after some seconds."""

    number: signal.Signals
    rename: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        when = f"rename {self.rename}" if self.rename else f"{self.seconds:.2f} s"
        return f"{self.number.name} at {when}"


def environment(cache: Path, **more: str) -> dict[str, str]:
    """Of a child: programs compiled once are kept in the suite's own folder."""
    paths = os.pathsep.join([str(ROOT / "faults/hook"), str(ROOT)])
    return {**os.environ, "PYTHONPATH": paths, "XDG_CACHE_HOME": str(cache), **more}


def ended(
    argv: Sequence[object],
    cache: Path,
    watched: Path | None = None,
    disturbance: Disturbance | None = None,
    more: Mapping[str, str] | None = None,
) -> Ended:
    """Run `python ARGV` to its end.

    Args:
        argv: after `python`.
        cache: the folder of compiled programs.
        watched: below it renames are counted; they are listed in WATCHED.renames.
        disturbance: what happens meanwhile.
        more: environment variables.
    """
    given = dict(more or {})
    if watched is not None:
        log = renames(watched)
        log.unlink(missing_ok=True)
        given |= {"FAULTS_ROOT": str(watched), "FAULTS_LOG": str(log)}
        if disturbance is not None and disturbance.rename:
            number = str(int(disturbance.number))
            given |= {"FAULTS_AT": str(disturbance.rename), "FAULTS_SIGNAL": number}
    begin, missed = time.monotonic(), False
    with started(argv, cache, given) as process:
        if disturbance is not None and not disturbance.rename:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(disturbance.seconds)
                missed = True
            process.send_signal(disturbance.number)
        try:
            _, messages = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            _, messages = process.communicate()
            messages += b"\nit hung"
    seconds = time.monotonic() - begin
    return Ended(process.returncode, messages.decode(errors="replace"), seconds, missed)


@contextlib.contextmanager
def started(
    argv: Sequence[object], cache: Path, more: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """`python ARGV` at work; killed at the end if it still is."""
    process = subprocess.Popen(
        [sys.executable, *map(str, argv)],
        cwd=ROOT,
        env=environment(cache, **(more or {})),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def renames(watched: Path) -> Path:
    """The file that lists the renames below a folder."""
    return watched.with_name(f"{watched.name}.renames")
