"""The command `fisher-select` in this process: what it told, and whether that was a line."""

import contextlib
import io
import traceback
from typing import NamedTuple

from fisher_jax.command.main import main


class Told(NamedTuple):
    """Exit code (1 for a traceback) and what was printed."""

    code: int
    messages: str

    @property
    def is_a_line(self) -> bool:
        """Bad input, told in one line."""
        told = self.messages.rstrip("\n").rpartition("\n")[2]
        return self.code == 2 and told.startswith("fisher-select: error: ")


def select(*argv: object) -> Told:
    """Run it."""
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
        try:
            code = main([str(word) for word in argv])
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except Exception:
            traceback.print_exc(file=printed)
            code = 1
    return Told(code, printed.getvalue())
