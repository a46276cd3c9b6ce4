"""The start of the process `fisher-select`: Ctrl-C ends it in a line, also while libraries load."""

import contextlib
import os
import signal
from types import FrameType
from typing import NoReturn


def start() -> NoReturn:
    """Run the command as a process of its own; see `fisher_jax.command.main`."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, _leave)
    from fisher_jax.command import interruption
    from fisher_jax.command.main import main

    interruption.leave(main())


def _leave(signum: int, frame: FrameType | None) -> NoReturn:
    with contextlib.suppress(OSError):  # nobody has to read it
        os.write(2, b"\nfisher-select: interrupted, no selection was written\n")
    os._exit(130)
