"""Rows embedded by a model: once, where a cache is given, whatever is chosen of them later."""

import hashlib
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from fisher_jax.data.embedding_store import (
    DTYPES,
    EmbeddingStore,
    StoredEmbeddings,
    read_numbers,
    write_numbers,
)
from fisher_jax.design import TokenEmbeddings
from fisher_jax.models import LanguageModel, Pass, TokenizedRows, passes_of, run_passes
from fisher_jax.pipeline.cache import Cache, File, mark_used, remove
from fisher_jax.util.errors import UserError
from fisher_jax.util.excerpt import counted
from fisher_jax.util.progress import OnProgress

SHARD_BYTES = 1 << 28  # of embeddings: what a killed run loses at most


class Shard(NamedTuple):
    """Shard i of k of the work, i from 1 to k."""

    i: int = 1
    k: int = 1


WHOLE = Shard()


class CachedRows:
    """Rows of a pool, and what a cache has of their embeddings.

    A row's key has its tokens and which of them count, so other budgets, rules, ridges and options
    of the text never give the wrong ones. A killed run goes on after its last shard, to the same
    bytes. See `Cache` for rows that were embedded beside other rows.

    Attributes:
        keys: of the rows, in their order.
        absent: (n,) rows that must be embedded; of copies the first.
    """

    def __init__(
        self, model: LanguageModel, rows: TokenizedRows, batch_tokens: int | None, cache: Cache
    ) -> None:
        self._model, self._rows, self._cache = model, rows, cache
        self._passes = passes_of(model, rows, batch_tokens)
        self._of_row = rows.counted * model.dim * DTYPES[cache.dtype].itemsize  # bytes
        self.keys = cache.keys(rows, self._passes)
        self.store = EmbeddingStore(cache.place(model), cache.dtype, model.name)
        first = {key: i for i, key in reversed([*enumerate(self.keys)])}
        missing = self.store.missing(self.keys)
        self.absent: Int[np.ndarray, "n"] = np.asarray(
            [i for i in missing if first[self.keys[i]] == i], np.int64
        )

    @property
    def told(self) -> str:
        """What is there, in a sentence; empty where nothing is."""
        n, damaged = len(self.keys) - len(self.absent), self.store.damaged
        told = []
        if n:
            told.append(f"{counted(n, 'row')} of {len(self.keys):,} in the cache.")
        if damaged:
            files = counted(len(damaged), "damaged file")
            told.append(f"{files} of the cache left out, first {damaged[0]}.")
        if gone := self._superfluous():
            size = sum(file.size for file in gone) / 1e9
            told.append(
                f"{counted(len(gone), 'file')} of the cache, {size:.1f} GB not used for longest, "
                "will go."
            )
        return " ".join(told)

    @property
    def n_bytes(self) -> int:
        """Of the embeddings of all rows, in the cache or not."""
        return int(self._of_row.sum())

    @property
    def n_absent_bytes(self) -> int:
        """Of the embeddings that must be computed."""
        return int(self._of_row[self.absent].sum())

    @property
    def is_optional(self) -> bool:
        """Nobody has asked for this cache by name."""
        return self._cache.exact

    def embed(self, on_progress: OnProgress, part: Shard = WHOLE) -> None:
        """Embed what is absent, or a part of it."""
        mark_used(self.store.used(self.keys))
        remove(self._superfluous())
        done = len(self.keys) - len(self.absent)
        on_progress(done)
        for passes in self._shards(part.k)[part.i - 1 :: part.k]:
            some = np.concatenate([np.empty(0, np.int64), *(one.rows for one in passes)])
            if len(some):
                states, offsets = self._run(passes, some, lambda n, at=done: on_progress(at + n))
                self.store.add([self.keys[i] for i in some], TokenEmbeddings(states, offsets))
                done += len(some)
        self.absent = self.absent[self.store.missing([self.keys[i] for i in self.absent])]

    def numbers(
        self, name: str, told: str, compute: Callable[[], Float[np.ndarray, "N"]]
    ) -> Float[np.ndarray, "N"]:
        """A number a row that the model gives, computed once for these rows.

        Args:
            name: of the score.
            told: all else that it depends on.
            compute: gives it where the cache has none.
        """
        what = hashlib.sha256(b"".join(self.keys) + f"{name} {told}".encode()).hexdigest()
        path = self.store.folder / "scores" / f"{name}-{what[:32]}.safetensors"
        numbers = read_numbers(path)
        if numbers is None or len(numbers) != len(self.keys):
            numbers = np.asarray(compute())
            try:
                write_numbers(path, numbers, self._model.name)
            except OSError:
                if not self.is_optional:
                    raise  # else the user's cache is full, and only time is lost
        mark_used([path])
        return numbers

    def _run(
        self, passes: Sequence[Pass], some: np.ndarray, on_progress: OnProgress
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings and offsets of some rows, which are those of the passes in their order."""
        rows, ends = self._rows.take(some), np.cumsum([len(one.rows) for one in passes])
        own = [
            one._replace(rows=np.arange(end - len(one.rows), end))
            for one, end in zip(passes, ends.tolist(), strict=True)
        ]
        return run_passes(self._model, rows, own, on_progress), rows.offsets

    def view(self) -> StoredEmbeddings:
        """All of them, as they are read from the cache."""
        return self.store.view(self.keys)

    def _superfluous(self) -> list[File]:
        return self._cache.superfluous(self.n_absent_bytes, self.store.used(self.keys))

    def _shards(self, least: int) -> list[list[Pass]]:
        """The passes of what is absent, by shard; at least so many, where there are passes enough.

        Which row is in which shard, and the shape of its pass, stay the same whatever is there.
        """
        ends = np.cumsum([self._of_row[one.rows].sum() for one in self._passes])
        of_shard = min(SHARD_BYTES, ends[-1] // least + 1)
        is_absent = np.zeros(len(self.keys), bool)
        is_absent[self.absent] = True
        shards = []
        by_shard = zip((ends - 1) // of_shard, self._passes, strict=True)
        for _, members in groupby(by_shard, lambda pair: pair[0]):
            passes = []
            for (size, length), same in groupby([p for _, p in members], lambda one: one[:2]):
                rows = np.concatenate([one.rows[is_absent[one.rows]] for one in same])
                starts = range(0, len(rows), size)
                passes += [Pass(size, length, rows[begin : begin + size]) for begin in starts]
            shards.append(passes)
        return shards


def cached_rows(
    cache: Cache | None, model: LanguageModel, rows: TokenizedRows, batch_tokens: int | None
) -> tuple[CachedRows | None, str]:
    """Rows in a cache, if it can keep them, and what is to be told of it.

    Raises:
        UserError: a cache that was asked for by name lacks room.
    """
    if cache is None:
        return None, ""
    cached = CachedRows(model, rows, batch_tokens, cache)
    lack = cache.lacks(cached.n_bytes, cached.n_absent_bytes)
    if lack and not cache.exact:
        raise UserError(f"{lack}: name another `cache`, or make room")
    return (None, f"Embeddings are not kept: {lack}.") if lack else (cached, cached.told)
