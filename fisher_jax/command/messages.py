"""What `fisher-select` shows while it works, on stderr."""

import sys
from types import TracebackType

from tqdm import tqdm

from fisher_jax.command import interruption
from fisher_jax.pipeline import Step


class Bars:
    """A bar for each step of the work, one after the other, with rate and remaining time."""

    def __init__(self) -> None:
        self._what, self._bar = "", None

    def __enter__(self) -> "Bars":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the bar that is open: what is said next has a line of its own."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None

    def __call__(self, step: Step) -> None:
        """Show it; raises what a library has swallowed of Ctrl-C."""
        interruption.check()
        if step.what != self._what or self._bar is None:
            self.close()
            unit = f" {step.unit}"
            self._bar = tqdm(
                total=step.total, desc=step.what, unit=unit, file=sys.stderr, mininterval=0.3
            )
            self._what = step.what
        self._bar.update(step.done - self._bar.n)
