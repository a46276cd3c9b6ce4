"""One writer at a time, and work that a signal may not cut in two."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from fisher_jax.util.errors import UserError
from fisher_jax.util.files import beside

STOPPING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]  # Windows lacks one


@contextlib.contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Meanwhile no other process that asks for the same may write `path`, a file or a folder.

    The lock is a hidden file in the nearest folder that exists, which goes at the end; one that a
    killed process has left locks nothing.

    Raises:
        UserError: another process has it.
        OSError: the folder can't be written to.
    """
    folder, name = beside(path)
    file = folder / f".{name}.lock"
    lock = FileLock(file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(f"another run is writing {path}: wait for it, or name another") from None
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # before it is free: who opened it meanwhile sees it is gone
        lock.release()


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Ctrl-C and polite kills wait for the end of what is inside; then they happen.

    Signals come to the main thread alone: in another one nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []

    def wait(signum: int, frame: FrameType | None) -> None:
        waiting.append(signum)

    before = {}
    try:
        for number in STOPPING:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: not Python's
                before[number] = signal.signal(number, wait)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in dict.fromkeys(waiting):
            signal.raise_signal(number)
