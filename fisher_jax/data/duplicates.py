"""Copies of a row among a pool's rows: equal texts, and near duplicates by MinHash."""

import sys
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from fisher_jax.data.rows import Chat, PoolError, Row
from fisher_jax.util.progress import OnProgress

_N_PERMUTATIONS = 128
_SHINGLE = 3


def text_of(row: Row | Chat, system: bool = True) -> str:
    """A row as one text; of a chat what is said, with or without the system's message."""
    if isinstance(row, Chat):
        messages = [*row.prompt, *row.completion]
        return "\n".join(m["content"] for m in messages if system or m["role"] != "system")
    return row if isinstance(row, str) else f"{row.prompt}\n{row.completion}"


def normalized(row: Row | Chat, system: bool = True) -> str:
    """What makes two rows the same: `text_of` without case and kinds of white space."""
    return " ".join(text_of(row, system).casefold().split())


def unique(
    rows: Sequence[Row | Chat],
    copies: Literal["none", "exact", "near"],
    on_progress: OnProgress | None = None,
) -> Int[np.ndarray, "n"]:
    """Indices of the rows that are no such copy of an earlier one, ascending.

    Only near duplicates take long enough to call `on_progress` with the rows done.
    """
    if copies == "none":
        return np.arange(len(rows))
    if copies == "exact":
        return deduplicate_exact(rows)
    return deduplicate_near(rows, on_progress=on_progress)


def deduplicate_exact(rows: Sequence[Row | Chat]) -> Int[np.ndarray, "n"]:
    """Indices of the first of all rows with one `normalized` text, ascending."""
    first: dict[str, int] = {}
    for i, row in enumerate(rows):
        first.setdefault(normalized(row), i)
    return np.asarray(list(first.values()), np.int64)


def deduplicate_near(
    rows: Sequence[Row | Chat],
    threshold: float | int = 0.7,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Int[np.ndarray, "n"]:
    """Indices of the first row of each cluster of near duplicates, ascending.

    Two rows are near if the Jaccard similarity |A & B| / |A | B| of their sets of shingles is at
    least `threshold`; clusters are what is connected. Shingles are runs of three characters of the
    lower-case text, its letters and digits with single spaces (of a text without any, of all its
    characters). MinHash (128 permutations) with
    locality-sensitive hashing proposes pairs, whose similarity is then computed exactly.

    Args:
        rows: texts, prompts and completions, or chats.
        threshold: between 0 and 1, exclusive of 0.
        seed: of the permutations.
        on_progress: called with the number of rows done.

    Raises:
        PoolError: the package datasketch is missing, or a threshold out of range.
    """
    if not 0 < threshold <= 1:
        raise PoolError(f"threshold must be above 0 and at most 1, got {threshold}")
    check_near()
    from datasketch import MinHash, MinHashLSH  # an extra

    first: dict[frozenset[str], int] = {}  # rows with the same shingles are compared as one
    for i, row in enumerate(rows):
        first.setdefault(_shingles(row), i)
    index = MinHashLSH(threshold=max(0.1, threshold - 0.2), num_perm=_N_PERMUTATIONS)
    shingles, places = [*first], [*first.values()]
    hashes = MinHash.generator(
        ([s.encode() for s in of_row] for of_row in shingles),
        num_perm=_N_PERMUTATIONS,
        seed=seed,
        hashfunc=zlib.crc32,
    )
    root = list(range(len(shingles)))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for i, (of_row, minhash) in enumerate(zip(shingles, hashes, strict=True)):
        candidates: list[Any] = index.query(minhash)
        for j in candidates:
            a, b = find(i), find(j)
            if a != b and _jaccard(of_row, shingles[j]) >= threshold:
                root[max(a, b)] = min(a, b)
        index.insert(i, minhash, check_duplication=False)
        if on_progress is not None:
            on_progress(places[i + 1] if i + 1 < len(places) else len(rows))
    return np.asarray([at for i, at in enumerate(places) if find(i) == i], np.int64)


def check_near() -> None:
    """Is what near duplicates need installed?

    Raises:
        PoolError: the package datasketch is missing.
    """
    try:
        import datasketch  # noqa: F401
    except ImportError:
        raise PoolError(
            "near duplicates need the package datasketch: pip install 'fisher-jax[dedup]'"
        ) from None


def _shingles(row: Row | Chat) -> frozenset[str]:
    whole = normalized(row, system=False)  # which many rows may share
    text = " ".join("".join(c if c.isalnum() else " " for c in whole).split()) or whole
    return frozenset(
        sys.intern(text[i : i + _SHINGLE]) for i in range(max(1, len(text) - _SHINGLE + 1))
    )


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    common = len(a & b)
    return common / (len(a) + len(b) - common)
