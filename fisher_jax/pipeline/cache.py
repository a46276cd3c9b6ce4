"""The folder that keeps what a model says of rows: where it is, how large, what is in it."""

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from fisher_jax.data.embedding_store import named
from fisher_jax.models import LanguageModel, Pass, TokenizedRows
from fisher_jax.util.errors import UserError
from fisher_jax.util.files import nearest_folder
from fisher_jax.util.provenance import version_of
from fisher_jax.util.user_folder import cpu_name, user_folder

LIMIT = 20 * 10**9  # bytes of the user's folder; what was not used for longest goes
_VERSION = 1  # another one where models compute other numbers than before


class Cache(NamedTuple):
    """A folder that keeps embeddings and scores, a folder in it for each model.

    Attributes:
        folder: where it is.
        exact: only what this machine computed in the same way is found again, so that no byte of a
            result depends on what is there. Otherwise a row is found whatever pool it was in, and
            may differ by rounding.
        limit: bytes that it may have.
        dtype: of the embeddings in it.
    """

    folder: Path
    exact: bool = False
    limit: float = float("inf")
    dtype: str = "float32"

    @classmethod
    def of(cls, asked: object, dtype: str = "float32") -> "Cache | None":
        """What `Request.cache` asks for: a folder, the user's own, or none.

        Raises:
            UserError: it is no folder, or may not be written; told before any work.
        """
        if asked is None or asked is False:
            return None
        if asked is True:
            return cls(embeddings_folder(), exact=True, limit=LIMIT)
        folder = Path(str(asked))
        if folder.exists() and not folder.is_dir():
            raise UserError(f"`cache` {folder} is no folder: name one, or a place for a new one")
        if not os.access(nearest_folder(folder), os.W_OK):
            raise UserError(f"`cache` {folder} can't be written: name a folder of your own")
        return cls(folder, dtype=dtype)

    def place(self, model: LanguageModel) -> Path:
        """A model's folder: one for its weights, its config, and the types of numbers."""
        what = f"{_VERSION} {model.weights_sha256} {model.module.config}"
        digest = hashlib.sha256(what.encode()).hexdigest()[:32]
        kept = "" if self.dtype == "float32" else f"_{self.dtype}"
        return self.folder / f"{digest}-{model.module.head.dtype}{kept}"

    def keys(self, rows: TokenizedRows, passes: Sequence[Pass]) -> list[bytes]:
        """By which each row's embeddings are found: its tokens, and which of them count.

        Where `exact`, also the shape of its forward pass, this machine and its JAX.
        """
        keys = [b""] * len(rows.ids)
        machine = f"{jax.devices()[0].device_kind} {version_of('jaxlib')} {cpu_name()} "
        for one in passes:
            shape = f"{machine}{os.cpu_count()} {one.size} {one.length}".encode()
            for i in one.rows:
                row = rows.ids[i].astype("<i4").tobytes() + np.packbits(rows.learnt[i]).tobytes()
                keys[i] = hashlib.sha256(row + shape if self.exact else row).digest()
        return keys

    def entries(self) -> list["Entry"]:
        """What each model has there."""
        found = []
        for place in sorted(self.folder.glob("*-*")):
            is_ours = re.fullmatch(r"[0-9a-f]{32}-\w+", place.name)  # as `place` makes them
            if is_ours and (files := _files(place)):
                size, used = sum(file.size for file in files), max(file.used for file in files)
                name = max(named(file.path) for file in files)
                found.append(Entry(name or place.name, place, size, used))
        return found

    def lacks(self, n_bytes: int, wanted: int) -> str:
        """Why a pool can't be kept, in words; empty where it can.

        Args:
            n_bytes: of all its embeddings.
            wanted: of them, those that are to be written.
        """
        there = nearest_folder(self.folder)
        if wanted and not os.access(there, os.W_OK):
            return f"the cache {self.folder} can't be written"
        if n_bytes > self.limit:
            return (
                f"{n_bytes / 1e9:.0f} GB are more than the {self.limit / 1e9:.0f} GB of the cache"
            )
        free = shutil.disk_usage(there).free
        if wanted * 1.05 > free:
            return (
                f"the cache {self.folder} needs {wanted / 1e9:.1f} GB more, its disk has "
                f"{free / 1e9:.1f} GB"
            )
        return ""

    def superfluous(self, wanted: int, in_use: Collection[Path] = ()) -> "list[File]":
        """What was not used for longest and must go, so that there is room.

        Args:
            wanted: bytes that are to be written.
            in_use: files that stay.
        """
        files = _files(self.folder)
        over = sum(file.size for file in files) + wanted - self.limit
        gone: list[File] = []
        for file in sorted(files, key=lambda file: file.used):
            if sum(f.size for f in gone) >= over:
                break
            if file.path not in in_use:
                gone.append(file)
        return gone


class Entry(NamedTuple):
    """A model's part of a cache.

    Attributes:
        name: of the model.
        place: its folder.
        size: bytes.
        used: when last, seconds since 1970.
    """

    name: str
    place: Path
    size: int
    used: float


class File(NamedTuple):
    """A file of a cache, its bytes, and when it was last used."""

    path: Path
    size: int
    used: float


def embeddings_folder() -> Path:
    """The user's cache of embeddings.

    Raises:
        UserError: nobody's home.
    """
    try:
        return user_folder() / "embeddings"
    except RuntimeError:
        raise UserError("there is no home folder for the cache: pass `cache=DIR`") from None


def remove(files: Sequence[File]) -> None:
    """Remove files of a cache, those that another process has not removed meanwhile."""
    for file in files:
        file.path.unlink(missing_ok=True)


def mark_used(paths: Collection[Path]) -> None:
    """Files that are used now are the last to be removed."""
    for path in paths:
        with contextlib.suppress(OSError):
            os.utime(path)


def _files(folder: Path) -> list[File]:
    found = []
    for path in folder.rglob("*.safetensors"):
        with contextlib.suppress(FileNotFoundError):
            facts = path.stat()
            found.append(File(path, facts.st_size, facts.st_mtime))
    return found
