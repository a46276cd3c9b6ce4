"""`fisher-select`: choose the rows of a pool that are worth fine-tuning on."""

import contextlib
import sys
from collections.abc import Sequence

from fisher_jax.command import interruption
from fisher_jax.command.arguments import flags
from fisher_jax.command.caches import caches
from fisher_jax.command.errors import Messages, is_told, tell
from fisher_jax.command.replay import arguments_of
from fisher_jax.command.words import NAME
from fisher_jax.util.memory import check_address_space


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; messages go to stderr."""
    with contextlib.redirect_stderr(Messages(sys.stderr)):
        try:
            words = sys.argv[1:] if argv is None else [*argv]
            half = words[0] if words and words[0] in ("embed", "select") else ""
            if words[:1] == ["cache"]:
                caches(words[1:])
                return 0
            args = arguments_of(words[1:] if half else words, half)
            check_address_space()
            from fisher_jax.command import work  # deferred: its libraries take seconds

            with interruption.listening():
                work.embed(args) if half == "embed" else work.work(args, embeds=half != "select")
        except BaseException as error:
            if not is_told(error):
                raise
            smaller = "try a smaller --batch-tokens, --max-length or pool"
            lost = ", no selection was written"
            return tell(NAME, error, smaller=smaller, interrupted=lost, flags=flags())
    return 0
