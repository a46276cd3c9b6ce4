"""Work that the device is given before the host has fetched what came before."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

from fisher_jax.util.platforms import here

Begun = TypeVar("Begun")


def ahead(begun: Iterable[Begun]) -> Iterator[Begun]:
    """The same in the same order, taken from `begun` before they are needed.

    `begun` starts work on the device whenever it is asked for one more. Up to the table's
    `in_flight` are started before the first is given out, so the device works while the host
    fetches: JAX waits for a result only where the host reads it.
    """
    waiting: deque[Begun] = deque()
    for one in begun:
        waiting.append(one)
        if len(waiting) >= here().in_flight:
            yield waiting.popleft()
    yield from waiting
