"""Errors as a person at a terminal meets them: one line and an exit code."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

from fisher_jax.command.interruption import INTERRUPTED
from fisher_jax.util.errors import UserError
from fisher_jax.util.excerpt import one_line

_LACKS = {  # words of errors that mean memory
    RuntimeError: ("RESOURCE_EXHAUSTED", "can't start new thread"),
    ImportError: ("failed to map segment", "Cannot allocate memory"),
}


def is_told(error: BaseException) -> bool:
    """Whether a line says all: a person can mend it, or has asked for it.

    That is a `UserError`, the system's refusals (`OSError`: permission, a full disk), memory that
    doesn't suffice, and Ctrl-C. Everything else is a fault of the program and needs its traceback.
    """
    return isinstance(error, (UserError, OSError, KeyboardInterrupt)) or _is_memory(error)


def tell(
    command: str,
    error: BaseException,
    *,
    smaller: str,
    interrupted: str,
    flags: Mapping[str, str] | None = None,
) -> int:
    """Tell of an error in a line on stderr; gives the exit code, 2 or 130.

    Args:
        command: its name.
        error: what was caught, if it `is_told`.
        smaller: what to make smaller where memory is short.
        interrupted: what Ctrl-C leaves behind.
        flags: the command's flags by the names of the library's options.
    """
    if isinstance(error, KeyboardInterrupt):
        print(f"\n{command}: interrupted{interrupted}", file=sys.stderr)
        return INTERRUPTED
    message = in_flags(one_line(error, 2000), flags or {})
    if _is_memory(error):
        why = one_line(error) or "of this machine"
        message = f"out of memory ({why}): {smaller}, or JAX_PLATFORMS=cpu"
    print(f"{command}: error: {message}", file=sys.stderr)
    return 2


def in_flags(message: str, flags: Mapping[str, str]) -> str:
    """A message of the library, whose options in backticks become the command's.

    "`on_empty=skip`" becomes "--on-empty skip", for the names that are in `flags`.
    """

    def flag(match: re.Match[str]) -> str:
        name, value = match["name"], match["value"]
        if name not in flags:
            return match[0]
        return flags[name] if value is None else f"{flags[name]} {value}"

    return re.sub(r"`(?P<name>\w+)(?:=(?P<value>[^`]*))?`", flag, message)


def _is_memory(error: BaseException) -> bool:
    """Python's own error, or one of XLA, a thread or a library that lacked it."""
    own = [words for kind, words in _LACKS.items() if isinstance(error, kind)]
    return isinstance(error, MemoryError) or any(w in str(error)[:500] for of in own for w in of)


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
