"""Rows that are no copies: of earlier ones of the pool, and of another set."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from fisher_jax.data.duplicates import deduplicate_means, unique
from fisher_jax.data.pool_file import PoolFile
from fisher_jax.design import TokenEmbeddings
from fisher_jax.pipeline.clock import Clock
from fisher_jax.pipeline.request import Request
from fisher_jax.pipeline.sources import facts_of, notes_of, read_rows
from fisher_jax.util.excerpt import counted


class Originals(NamedTuple):
    """Rows of a pool that may be chosen.

    Attributes:
        at: (n,) which they are, ascending.
        notes: what was left out, in sentences.
        facts: for the manifest.
    """

    at: Int[np.ndarray, "n"]
    notes: list[str]
    facts: dict[str, Any]


def without_copies(
    request: Request, n_rows: int, file: PoolFile | None, emb: TokenEmbeddings | None, clock: Clock
) -> Originals:
    """What is left without copies, as the request tells them: by texts, or by mean embeddings.

    Raises:
        UserError: the file of the other set can't be used.
    """
    copies, other = request.deduplicate, None
    if request.exclude is not None:
        other = read_rows("exclude", request)
    at = np.arange(n_rows)
    with clock.timed("deduplicate"):
        if file is not None and file.rows is not None:
            show = clock.counting("looking for copies", n_rows, "row") if copies == "near" else None
            by_text = "none" if copies == "means" else copies
            against = () if other is None else other.rows or ()
            at = unique(file.rows, by_text, show, against)
        n_unique = len(at)
        if copies == "means" and emb is not None:
            at = at[deduplicate_means(emb.pooled("mean")[at])]
    facts = {"dropped_copies": n_rows - len(at)} | facts_of("exclude", other)
    kind = "near" if copies == "near" else "exact"
    notes = notes_of(other) + _notes(kind, n_rows - n_unique, other, copies in ("exact", "near"))
    return Originals(at, notes + _notes("semantic", n_unique - len(at)), facts)


def _notes(
    kind: str, n_copies: int, other: PoolFile | None = None, earlier: bool = True
) -> list[str]:
    if not n_copies:
        return []
    of = f" of rows of {other.path}" if other is not None else ""
    also = " or of earlier rows" if of and earlier else ""
    number, was = (
        (f"1 {kind} copy", "was") if n_copies == 1 else (f"{n_copies:,} {kind} copies", "were")
    )
    return [f"{number}{of}{also} {was} dropped."]


def note_on_equal_rows(file_rows: Any, copies: str) -> list[str]:
    """A sentence on rows that repeat earlier ones, where none are left out."""
    n_equal = len(file_rows) - len(unique(file_rows, "exact")) if copies == "none" else 0
    if not n_equal:
        return []
    return [
        f"{counted(n_equal, 'row')} repeat{'s' * (n_equal == 1)} an earlier one: "
        "exact deduplication leaves such rows out."
    ]
