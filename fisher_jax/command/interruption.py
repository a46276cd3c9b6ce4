"""Ctrl-C and kills of a command, none of which may get lost."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130  # exit code
_asked = _is_over = False


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Meanwhile Ctrl-C and polite kills raise KeyboardInterrupt, in `check` too.

    Signals come to the main thread alone: in another one nothing is changed.
    """
    global _asked, _is_over
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _asked = _is_over = False
    before, unraisable = {}, sys.unraisablehook
    sys.unraisablehook = lambda args: None if _is_swallowed(args) else unraisable(args)
    try:
        for name in {"SIGINT", "SIGTERM", "SIGHUP"} & {*dir(signal)}:  # Windows has two of them
            number = getattr(signal, name)
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup's wish
                before[number] = signal.signal(number, _interrupt)
        yield
    finally:
        sys.unraisablehook = unraisable
        for number, handler in before.items():
            # None: set by what is not Python, which can't be put back
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def finishing() -> Iterator[None]:
    """From here on it is too late to interrupt: all is written but for its last renames."""
    global _is_over
    _is_over = True
    yield


def check() -> None:
    """Raise what a library's callback has swallowed: JAX's on garbage collection does."""
    if _asked:
        raise KeyboardInterrupt


def leave(code: int | str | None) -> NoReturn:
    """End the process: at once where it was interrupted, since XLA may still be at work."""
    if code == INTERRUPTED:
        sys.stderr.flush()
        os._exit(INTERRUPTED)
    sys.exit(code)


def _is_swallowed(args: "sys.UnraisableHookArgs") -> bool:
    """An interruption in a callback of C: Python would print a traceback, and `check` tells."""
    return isinstance(args.exc_value, KeyboardInterrupt)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    global _asked
    if not _is_over:
        _asked = True
        raise KeyboardInterrupt
