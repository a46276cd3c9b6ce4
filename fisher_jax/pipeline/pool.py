"""Pools on their way to a selection: prepared, then embedded."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from fisher_jax.data.embedding_store import StoredEmbeddings
from fisher_jax.data.pool_file import PoolFile
from fisher_jax.design import TokenEmbeddings


class EmbeddedPool(NamedTuple):
    """Embeddings and costs of the rows that may be chosen.

    Attributes:
        file: as read, None for embeddings without one.
        emb: of the rows kept, centred and scaled.
        costs: tokens of each that are learnt.
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
    costs: Int[np.ndarray, "N"]
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
