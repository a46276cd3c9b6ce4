"""Copies of a row among a pool's rows: equal texts, near duplicates by MinHash, like meanings."""

import json
import sys
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from fisher_jax.data.example import Example, PoolError
from fisher_jax.data.shapes import example_of, examples_of
from fisher_jax.util.progress import OnProgress

_N_PERMUTATIONS = 128
_SHINGLE = 3
_BLOCK, _ROUNDING = 1024, 1e-5  # rows, and what a cosine in float32 may be off by


def normalized(row: str | Example) -> str:
    """A row's text without case and kinds of white space, by which copies are told."""
    return _plain(example_of(row).text())


def unique(
    rows: Sequence[str | Example],
    copies: Literal["none", "exact", "near"],
    on_progress: OnProgress | None = None,
    against: Sequence[str | Example] = (),
) -> Int[np.ndarray, "n"]:
    """Indices of the rows that are no such copy of an earlier one, ascending.

    Nor of a row of `against`: of which copies "none" and "exact" tell those of the same words,
    whatever the columns, the roles or the system message. Only near duplicates take long enough to
    call `on_progress` with the rows done, those of `against` first.
    """
    if copies == "near":
        kept = deduplicate_near([*against, *rows], on_progress=on_progress)
        return kept[kept >= len(against)] - len(against)
    kept = deduplicate_exact(rows) if copies == "exact" else np.arange(len(rows))
    if not against:
        return kept
    words, examples = {_words(row) for row in examples_of(against)}, examples_of(rows)
    return np.asarray([i for i in kept if _words(examples[i]) not in words], np.int64)


def deduplicate_means(
    means_NxD: Float[np.ndarray, "N D"], threshold: float | int = 0.95
) -> Int[np.ndarray, "n"]:
    """Indices of the rows that are like no earlier one that is kept, ascending: semantic copies.

    Alike are two rows whose means of their tokens' embeddings, less the mean of all rows, have a
    cosine of at least `threshold` (as SemDeDup, arXiv 2303.09540, which looks within clusters
    only). N^2 / 2 cosines, a block of rows at a time.

    Raises:
        PoolError: a threshold out of range.
    """
    if not 0 < threshold <= 1:
        raise PoolError(f"threshold must be above 0 and at most 1, got {threshold}")
    unit = means_NxD - means_NxD.mean(axis=0)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), np.finfo(unit.dtype).tiny)
    kept = np.ones(len(unit), bool)
    for begin in range(0, len(unit), _BLOCK):
        alike = unit[begin : begin + _BLOCK] @ unit[: begin + _BLOCK].T >= threshold - _ROUNDING
        for i, to_earlier in enumerate(alike, start=begin):
            kept[i] = not (to_earlier[:i] & kept[:i]).any()
    return np.flatnonzero(kept)


def deduplicate_exact(rows: Sequence[str | Example]) -> Int[np.ndarray, "n"]:
    """Indices of the first of all rows that are equal but for case and white space, ascending.

    Equal are who says what, where the completion begins, the calls of tools and the tools.
    """
    first: dict[Any, int] = {}
    for i, row in enumerate(examples_of(rows)):
        first.setdefault(_key(row), i)
    return np.asarray(list(first.values()), np.int64)


def deduplicate_near(
    rows: Sequence[str | Example],
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
        rows: texts, prompts with completions, or chats.
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
    for i, row in enumerate(examples_of(rows)):
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


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _key(row: Example) -> Any:
    said = [(role, _plain(text)) for role, text in row.parts()]
    if not row.is_chat and row.prompt is None:
        return said[0][1]
    begin = None if row.prompt is None else len(row.prompt) if row.is_chat else 1
    return begin, *said, json.dumps([row.tools, row.options], default=str)


def _words(row: Example) -> str:
    return _plain(row.text(system=False))  # a system message may be shared by many rows


def _shingles(row: Example) -> frozenset[str]:
    whole = _words(row)
    text = " ".join("".join(c if c.isalnum() else " " for c in whole).split()) or whole
    return frozenset(
        sys.intern(text[i : i + _SHINGLE]) for i in range(max(1, len(text) - _SHINGLE + 1))
    )


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    common = len(a & b)
    return common / (len(a) + len(b) - common)
