"""What a campaign is made of: cases, each of which tries something and says what went wrong."""

import contextlib
import random
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass
class Trial:
    """What a case has tried so far, and the faults that it found."""

    tried: int = 0
    faults: list[str] = field(default_factory=list)

    def check(self, holds: object, told: str) -> None:
        """One more tried; a fault unless it holds."""
        self.tried += 1
        if not holds:
            self.faults.append(told)

    @contextlib.contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """One more tried; a fault if anything is raised."""
        self.tried += 1
        try:
            yield
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            told = f"{what}: {type(error).__name__}: {error} ({last.filename}:{last.lineno})"
            self.faults.append(" ".join(told.split())[:1000])


class Case(NamedTuple):
    """One piece of a campaign.

    Attributes:
        kind: its row of the table.
        name: its own, the same in every run of a seed.
        run: does it.
    """

    kind: str
    name: str
    run: Callable[[Trial], None]


def shuffled(seed: int, name: str) -> random.Random:
    """Random numbers of a seed and a name."""
    return random.Random(f"{seed} {name}")
