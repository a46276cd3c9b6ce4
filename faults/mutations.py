"""Mutations: damaged files of every kind are read, or refused in one line.

Each block of inputs is read by a process of its own, which may be aborted, hang or run out of
memory: `python -m faults.mutations KIND SEED BEGIN END FOLDER` tells of each input on stdout.
"""

import contextlib
import itertools
import json
import re
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from faults.case import Case, Trial, shuffled
from faults.kinds import KINDS, Kind
from faults.mutator import damaged, damaged_json
from faults.processes import PATIENCE, started

EDGES = (0, 250, *range(2500, 12501, 2500))  # of the blocks of each kind
SECONDS = 60  # after which reading one input hangs, on a busy machine too
MEMORY = 8 << 30  # bytes of a reader


def cases(seed: int) -> Iterator[Case]:
    """Blocks of every kind, in turn."""
    with tempfile.TemporaryDirectory(prefix="faults") as work:
        for block in itertools.pairwise(EDGES):
            for name in KINDS:

                def run(trial: Trial, name: str = name, block: tuple[int, int] = block) -> None:
                    read_block(trial, name, seed, *block, Path(work))

                yield Case(name, f"{name} {block[0]} to {block[1] - 1}", run)


def read_block(trial: Trial, name: str, seed: int, begin: int, end: int, work: Path) -> None:
    """All inputs of a block; one that ends its reader is a fault, and the next ones go on."""
    while begin < end:
        folder = Path(tempfile.mkdtemp(dir=work))
        told = folder / "told"
        argv = ["-m", "faults.mutations", name, seed, begin, end, folder]
        with started(argv, work / "cache") as process:
            _, messages = process.communicate(timeout=PATIENCE + (end - begin) * SECONDS)
        lines = [json.loads(line) for line in told.read_text().splitlines()]
        trial.tried += len(lines)
        trial.faults += [f"input {i}: {fault}" for i, fault in lines if fault]
        begin += len(lines)
        if process.returncode == 0:
            return
        last = messages.decode(errors="replace")[-300:]
        trial.check(False, f"input {begin} ended its reader ({process.returncode}): {last}")
        begin += 1


def main() -> None:
    """A reader's work."""
    name, folder = sys.argv[1], Path(sys.argv[5])
    seed, begin, end = map(int, sys.argv[2:5])
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    kind, told, place = KINDS[name](), folder / "told", folder / "files"
    place.mkdir()
    kind.write(place)
    sound = {file: (place / file).read_bytes() for file in kind.damaged}
    kind.read(place)  # or nothing below means anything
    with told.open("w") as file:
        for i in range(begin, end):
            rng = shuffled(seed, f"{name} {i}")
            one = rng.choice(kind.damaged)
            change = damaged_json if one.endswith(".json") else damaged
            (place / one).write_bytes(change(sound[one], rng))
            file.write(json.dumps([i, fault_of(kind, place)]) + "\n")
            file.flush()
            (place / one).write_bytes(sound[one])


class HangsError(BaseException):
    """Reading takes too long."""


def _hangs(*_: object) -> None:
    raise HangsError


def fault_of(kind: Kind, place: Path) -> str | None:
    """What is wrong about how a damaged folder is read; None where it is read or told in a line."""
    from fisher_jax.util.errors import UserError

    signal.signal(signal.SIGALRM, _hangs)
    signal.alarm(SECONDS)
    try:
        kind.read(place)
    except UserError as error:
        told = str(error)
        wrong = None if "\n" not in told and str(place) in told else f"no line with a path: {told}"
        return wrong and wrong[:500]
    except HangsError:
        return f"hangs for {SECONDS} s"
    except BaseException as error:  # a panic of a library in Rust is no Exception
        at = error.__traceback__
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        where = f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}" if at is not None else ""
        return re.sub(r"\s+", " ", f"{type(error).__name__}: {error} ({where})")[:500]
    finally:
        signal.alarm(0)
    return None


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        main()
