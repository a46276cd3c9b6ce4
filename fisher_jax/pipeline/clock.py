"""How far the work is, and how long its parts took."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from fisher_jax.util.progress import OnProgress


class Step(NamedTuple):
    """What `on_progress` is called with, first with nothing done; it may raise to end the work.

    Attributes:
        what: the work in a word or two, such as "embedding".
        done: of `total`.
        total: rows, tokens or draws; a greedy selection by tokens may end before it.
        unit: of both, in the singular.
    """

    what: str
    done: int
    total: int
    unit: str


OnStep = Callable[[Step], None]


@dataclass(frozen=True)
class Clock:
    """Tells of steps, and keeps how many seconds each part of the work took."""

    on_step: OnStep | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    begin: float = field(default_factory=time.perf_counter)

    @contextlib.contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Time what is inside."""
        begin = time.perf_counter()
        yield
        self.seconds[part] = round(time.perf_counter() - begin, 3)

    def counting(self, what: str, total: int, unit: str) -> OnProgress:
        """A function to be called with what is done of a step, which begins now."""

        def tell(done: int) -> None:
            if self.on_step is not None:
                self.on_step(Step(what, done, total, unit))

        tell(0)
        return tell

    def total(self) -> float:
        """Seconds since it was made."""
        return round(time.perf_counter() - self.begin, 3)
