"""Errors as a person at a terminal meets them: one line and an exit code."""

import contextlib
import io
import os
import sys
from typing import Any

from fisher_jax.command.interruption import INTERRUPTED
from fisher_jax.util.excerpt import one_line

FAILURES = (ValueError, OSError, MemoryError, RuntimeError, KeyboardInterrupt)


def tell(command: str, error: BaseException, *, smaller: str, interrupted: str) -> int:
    """Tell of one of the `FAILURES` in a line on stderr; gives the exit code, 2 or 130.

    Args:
        command: its name.
        error: what was caught.
        smaller: what to make smaller where memory is short.
        interrupted: what Ctrl-C leaves behind.
    """
    if isinstance(error, KeyboardInterrupt):
        print(f"\n{command}: interrupted{interrupted}", file=sys.stderr)
        return INTERRUPTED
    if isinstance(error, (MemoryError, RuntimeError)):  # JAX's own, and a device that won't start
        message = (
            f"out of memory, or the device failed ({one_line(error)}): {smaller}, or "
            "JAX_PLATFORMS=cpu"
        )
    else:
        message = one_line(error, 2000)
    print(f"{command}: error: {message}", file=sys.stderr)
    return 2


class Messages(io.TextIOBase):
    """Where a command's messages go; once nobody reads them any more, nowhere."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """To the stream at once, if there is one."""
        stream = self._stream
        if stream is not None:
            try:
                stream.write(text)
                stream.flush()
            except OSError:
                self._stream = None
                with contextlib.suppress(OSError):  # what its buffer still holds goes nowhere too
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return len(text)

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The stream's, which tells tqdm what a bar may be drawn with."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether a person looks on."""
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """The stream's."""
        if self._stream is None:
            raise OSError("nobody reads the messages")
        return self._stream.fileno()
