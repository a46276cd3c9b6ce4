"""Errors as a person at a terminal meets them: one line and an exit code."""

import sys

FAILURES = (ValueError, OSError, MemoryError, RuntimeError, KeyboardInterrupt)


def one_line(error: BaseException, most: int = 200) -> str:
    """A library's message for a line of ours."""
    return " ".join(str(error).split())[:most]


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
        return 130
    if isinstance(error, (MemoryError, RuntimeError)):  # JAX's own, and a device that won't start
        message = (
            f"out of memory, or the device failed ({one_line(error)}): {smaller}, or "
            "JAX_PLATFORMS=cpu"
        )
    else:
        message = one_line(error, 2000)
    print(f"{command}: error: {message}", file=sys.stderr)
    return 2
