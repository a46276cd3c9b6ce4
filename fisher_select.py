"""The command `fisher-select`: Ctrl-C ends it in a line, also while its libraries load."""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn


def main() -> NoReturn:
    """Run the command; see `fisher_jax.cli`."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, _leave)
    from fisher_jax.cli import process  # deferred: it takes seconds

    process()


def _leave(signum: int, frame: FrameType | None) -> NoReturn:
    print("\nfisher-select: interrupted, no selection was written", file=sys.stderr, flush=True)
    os._exit(130)


if __name__ == "__main__":
    main()
