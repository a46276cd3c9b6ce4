"""Rows embedded by a model: once, where a cache is given, whatever is chosen of them later."""

import hashlib
import os
from pathlib import Path

import numpy as np
from jaxtyping import Int

from fisher_jax.data.embedding_store import EmbeddingStore
from fisher_jax.design import TokenEmbeddings
from fisher_jax.models import LanguageModel, TokenizedRows, forward
from fisher_jax.util.errors import UserError
from fisher_jax.util.files import nearest_folder
from fisher_jax.util.progress import OnProgress

SHARD_BYTES = 1 << 28  # of embeddings: what a killed run loses at most


def embed_rows(
    model: LanguageModel,
    rows: TokenizedRows,
    batch_tokens: int | None,
    store: EmbeddingStore | None,
    on_progress: OnProgress,
) -> TokenEmbeddings:
    """Final hidden states of the rows; what a store has is taken from there, the rest joins it.

    They are found by the model's weights and by each row's tokens, so other budgets, rules, ridges
    and options of the text never give the wrong ones. A killed run goes on after its last shard,
    to the same bytes; rows that were embedded beside other rows may differ by rounding.
    """
    if store is None:
        return TokenEmbeddings(forward(model, rows, batch_tokens, on_progress), rows.offsets)
    keys = [_key(*row) for row in zip(rows.ids, rows.learnt, strict=True)]
    absent = set(store.missing(keys).tolist())
    done = len(keys) - len(absent)
    on_progress(done)
    for shard in _shards(rows, model.dim):
        some = np.asarray([i for i in shard if i in absent], np.int64)
        if len(some):
            part = rows.take(some)
            states = forward(model, part, batch_tokens, lambda k, done=done: on_progress(done + k))
            store.add([keys[i] for i in some], TokenEmbeddings(states, part.offsets))
            done += len(some)
    return store.view(keys).load()


def check_cache(cache: Path) -> None:
    """Refuse, before any work, a cache that nothing could be written to.

    Raises:
        UserError: it is no folder, or may not be written.
    """
    if cache.exists() and not cache.is_dir():
        raise UserError(f"`cache` {cache} is no folder: name one, or a place for a new one")
    if not os.access(nearest_folder(cache), os.W_OK):
        raise UserError(f"`cache` {cache} can't be written: name a folder of your own")


def _shards(rows: TokenizedRows, dim: int) -> list[Int[np.ndarray, "n"]]:
    """Rows by length, in parts of at most a shard; the same ones whatever a store has of them."""
    order = np.argsort([len(ids) for ids in rows.ids], kind="stable")
    n_bytes = np.cumsum(rows.counted[order]) * dim * np.dtype(np.float32).itemsize
    return np.split(order, np.flatnonzero(np.diff(n_bytes // SHARD_BYTES)) + 1)


def store_of(model: LanguageModel, cache: Path) -> EmbeddingStore:
    """A model's embeddings in a cache: a folder for its weights and the type they compute in."""
    dtype = np.dtype(model.module.head.dtype).name
    return EmbeddingStore(cache / f"{model.weights_sha256[:32]}-{dtype}")


def _key(ids: Int[np.ndarray, "M"], learnt: np.ndarray) -> bytes:
    """Of a row: its tokens, and which of them count."""
    return hashlib.sha256(ids.astype(np.int32).tobytes() + np.packbits(learnt).tobytes()).digest()
