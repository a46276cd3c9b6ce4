"""What a stage has measured, on disk after every part: a stage that is stopped loses one part."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from scripts.accelerator.layout import write_json
from scripts.accelerator.parts import MissingPartsError

Numbers = dict[str, Any]


class LeftOut(ValueError):  # noqa: N818
    """A part that can't run here, told in a line: something is not installed."""


class Context(NamedTuple):
    """What a stage's parts are told.

    Attributes:
        small: shrunk, so that the whole runs on two CPU cores in minutes.
        folder: for files of a part's own.
        seconds_left: of the stage.
        keep: numbers of a part that goes on, by its name.
    """

    small: bool
    folder: Path
    seconds_left: Callable[[], float]
    keep: Callable[[str, Numbers], None]


Parts = dict[str, Callable[[], Numbers]]


def compiled(cold: float, warm: float) -> Numbers:
    """Seconds of a first run and of a later one; what the first took for compilation."""
    return {"cold_s": cold, "warm_s": warm, "compile_s": cold - warm}


class Record:
    """A stage's results in `folder/STAGE.json`.

    Args:
        folder: of all results.
        stage: its name.
        same: what an earlier record must have for its parts to count: commit, size.
    """

    def __init__(self, folder: Path, stage: str, same: Numbers) -> None:
        self.path = folder / f"{stage}.json"
        before = json.loads(self.path.read_text()) if self.path.is_file() else {}
        is_same = all(before.get(key) == value for key, value in same.items())
        self.content: Numbers = before if before and is_same else {**same, "parts": {}}
        self.content |= {"failed": {}, "left_out": {}, "ended": "running"}

    def save(self, **changes: Any) -> None:
        """With these facts of the whole stage."""
        self.content |= changes
        write_json(self.path, self.content)

    def keep(self, part: str, numbers: Numbers) -> None:
        """A part's numbers, finished or not."""
        self.content["parts"][part] = numbers
        self.save()

    def run(self, parts: Parts, limit: float = 0) -> None:
        """All parts that are not done yet, whatever becomes of the others.

        A part that takes longer than the limit in seconds, if there is one, ends this process,
        since a compilation can't be ended alone; the record says that it was `running`.
        """
        for name, part in parts.items():
            known = self.content["parts"].get(name)
            is_done = known is not None and "unfinished" not in known
            if is_done or name in self.content.get("overran", {}):
                continue
            self.save(running=name)
            signal.setitimer(signal.ITIMER_REAL, limit)
            begin = time.perf_counter()
            try:
                numbers = part()
            except (LeftOut, MissingPartsError) as reason:
                self.content["left_out"][name] = str(reason)
                print(f"{name}: left out: {reason}")
            except Exception as error:  # the parts after it are worth their time
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
                self.content["failed"][name] = reason
                print(f"{name}: failed: {reason}")
            else:
                seconds = time.perf_counter() - begin
                self.keep(name, numbers | {"seconds": round(seconds, 2)})
                print(f"{name}: {json.dumps(numbers)}")
            signal.setitimer(signal.ITIMER_REAL, 0)
            del self.content["running"]
            self.save()
        self.save(ended="with failures" if self.content["failed"] else "done")
