"""Ctrl-C and kills of a command, none of which may get lost."""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130  # exit code
_asked = False


def listen() -> None:
    """From now on Ctrl-C and polite kills raise KeyboardInterrupt, in `check` too."""
    global _asked
    _asked = False
    for name in {"SIGINT", "SIGTERM", "SIGHUP"} & {*dir(signal)}:  # Windows has two of them
        number = getattr(signal, name)
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup's wish
            signal.signal(number, _interrupt)


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


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    global _asked
    _asked = True
    raise KeyboardInterrupt
