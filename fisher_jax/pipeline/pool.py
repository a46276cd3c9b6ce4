"""Pools on their way to a selection: prepared, then embedded."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from fisher_jax.data.embedding_store import StoredEmbeddings
from fisher_jax.data.pool_file import PoolFile
from fisher_jax.design import TokenEmbeddings, beyond
from fisher_jax.design.projection import projected, projection
from fisher_jax.models import standardize
from fisher_jax.pipeline.request import Request
from fisher_jax.pipeline.row_values import RowValues
from fisher_jax.selectors import SELECTORS


class Standardized(NamedTuple):
    """Embeddings of the pool and of rows beside it, centred, scaled and projected alike.

    Attributes:
        emb: of the pool.
        added: the same beyond the initial rows (`fisher_jax.design.beyond`); `emb` without any.
        targets: of the task, as `added`; None without one.
    """

    emb: TokenEmbeddings
    added: TokenEmbeddings
    targets: TokenEmbeddings | None


class EmbeddedPool(NamedTuple):
    """Embeddings and costs of the rows that may be chosen.

    Attributes:
        file: as read, None for embeddings without one.
        emb: of the rows kept, centred, scaled and projected.
        added: what they add to initial rows; rules choose by these.
        costs: tokens of each that are learnt.
        budget: what may be spent, as rules take it.
        values: what columns say of each.
        rows: which rows of the file they are.
        n_rows: of the file.
        notes: what was left out or cut, in sentences.
        facts: for the manifest.
        scores: by name, what the selector needs beside the embeddings.
        task_preview: example q of the task in `scores` as a text to look at.
        word: the token that embedding j of example i predicts, as text.
    """

    file: PoolFile | None
    emb: TokenEmbeddings | StoredEmbeddings
    added: TokenEmbeddings | StoredEmbeddings
    costs: Int[np.ndarray, "N"]
    budget: dict[str, Any]
    values: RowValues
    rows: Int[np.ndarray, "N"]
    n_rows: int
    notes: list[str]
    facts: dict[str, Any]
    scores: dict[str, Any]
    task_preview: Callable[[int], str] | None = None
    word: Callable[[int, int], str] | None = None

    def preview(self, i: int) -> str:
        """Example i as a text to look at."""
        return f"example {i}" if self.file is None else self.file.preview(int(self.rows[i]))


def standardized(
    request: Request, hidden: TokenEmbeddings, beside: dict[str, TokenEmbeddings]
) -> Standardized:
    """The pool's embeddings, in place, and those of its `targets` and `initial` rows."""
    others = [of.tokens for of in beside.values()]
    tokens = standardize(hidden.tokens, request.normalize, request.center, *others)
    emb = TokenEmbeddings(tokens, hidden.offsets)
    if request.project_dim is not None:
        matrix_DxK = projection(emb.dim, request.project_dim, request.seed)
        emb = projected(emb, matrix_DxK)
        beside = {name: projected(of, matrix_DxK) for name, of in beside.items()}
    added = emb
    targets, initial = (beside.get(name) for name in ("targets", "initial"))
    if initial is not None:
        added = beyond(emb, initial, request.ridge)
        targets = None if targets is None else beyond(targets, initial, request.ridge)
    return Standardized(emb, added, targets)


def notes_on_choosing(request: Request, dim: int) -> list[str]:
    """Sentences on another width than the embeddings', and on rules that can't use initial rows."""
    notes, to = [], request.project_dim
    if to is not None:
        told = f"by a random projection of {dim:,} dimensions to {to:,}"
        notes.append(f"Selects, and counts nats, {told}.")
    blind = [name for name in request.compare if not SELECTORS[name].adds]
    if blind and (request.initial is not None or request.initial_embeddings is not None):
        without = "without a look at the initial rows, from which its nats count"
        notes += [f"{name} chooses {without}." for name in blind]
    return notes
