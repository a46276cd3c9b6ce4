"""Token embeddings on disk: embedded once, found again by key, read example by example.

A store is a folder of shards. A shard is a safetensors file, written whole or not at all, with
`tokens` (T, D), `offsets` (n + 1,), `squares` (n,), the sum of |x|^2 over an example's tokens, and
`keys` (n, 32), the digests by which examples are found. Its name is the digest of its keys, so that
jobs which write side by side never meet.
"""

import contextlib
import copy
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import ml_dtypes
import numpy as np
from filelock import FileLock
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fisher_jax.design import TokenEmbeddings
from fisher_jax.design.embeddings import aligned, check_squares, pieces
from fisher_jax.util.errors import UserError
from fisher_jax.util.files import remove_leftovers_in, replacing

DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
}
TENSORS = ("tokens", "offsets", "squares", "keys")


class _Place(NamedTuple):
    """Where an example is, tokens `start:stop` of a shard, and its sum of |x|^2."""

    shard: int
    start: int
    stop: int
    squares: float


class _Shard(NamedTuple):
    """A file, open, and its tokens, not read yet."""

    path: Path
    file: Any  # safetensors has no names for their types
    tokens: Any


class EmbeddingStore:
    """A folder of shards of one model's embeddings.

    A shard's checksum is looked at when an example of it is first asked for, by `missing` or
    `view`, so that opening a large store takes a moment. A shard that is open stays readable when
    another process removes it.

    Args:
        folder: is made when the first shard is written.
        dtype: of what is written: float32, float16 or bfloat16; what is there may have another.
        name: whose embeddings they are, for people.

    Attributes:
        damaged: shards that were left out because their bytes are not those that were written.
    """

    def __init__(self, folder: Path, dtype: str = "float32", name: str = "") -> None:
        if dtype not in DTYPES:
            raise UserError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        self.folder, self._dtype, self._name = folder, DTYPES[dtype], name
        self.damaged: list[Path] = []
        self._places: dict[bytes, _Place] = {}
        self._shards: list[_Shard] = []
        self._unread: set[int] = set()  # shards whose checksum nobody has looked at
        for path in sorted(folder.glob("*.safetensors")):
            self._open(path)
        self._unread.update(range(len(self._shards)))

    def __len__(self) -> int:
        return len(self._places)

    def missing(self, keys: Sequence[bytes]) -> Int[np.ndarray, "n"]:
        """Places in `keys` of the examples that are not there, or not whole."""
        for shard in {place.shard for key in keys if (place := self._places.get(key))}:
            if shard in self._unread:
                self._unread.remove(shard)
                self._check(shard)
        return np.asarray([i for i, key in enumerate(keys) if key not in self._places], np.int64)

    def used(self, keys: Sequence[bytes]) -> list[Path]:
        """The shards in which examples are."""
        shards = {place.shard for key in keys if (place := self._places.get(key))}
        return [self._shards[shard].path for shard in sorted(shards)]

    def add(self, keys: Sequence[bytes], emb: TokenEmbeddings) -> None:
        """Write examples as one shard; processes wait for each other, and tidy after a killed one.

        Args:
            keys: 32 bytes for each example.
            emb: the examples.

        Raises:
            UserError: numbers that the dtype can't hold.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with np.errstate(over="ignore"):
            tokens = emb.tokens.astype(self._dtype, copy=False)
        if not np.isfinite(tokens).all():  # of float16, whose largest number is 65,504
            raise UserError(
                f"embeddings above {np.finfo(self._dtype).max:g} do not fit into {self._dtype}: "
                "keep them as bfloat16 or float32"
            )
        of_keys = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1)
        of_tokens = np.einsum("td,td->t", tokens, tokens, dtype=np.float64)
        squares = np.add.reduceat(of_tokens, emb.offsets[:-1])
        content: dict[str, np.ndarray] = {
            "tokens": tokens,
            "offsets": emb.offsets,
            "squares": squares,
            "keys": of_keys,
        }
        path = self.folder / f"{hashlib.sha256(of_keys.tobytes()).hexdigest()[:32]}.safetensors"
        facts = _facts(content.values(), self._name)
        with only_one(self.folder), replacing(path) as temporary:
            save_file(content, temporary, facts)
        self._open(path)

    def view(self, keys: Sequence[bytes]) -> "StoredEmbeddings":
        """Examples in the order of their keys.

        Raises:
            UserError: one that is not there, or not whole.
        """
        if len(lost := self.missing(keys)):
            raise UserError(
                f"{self.folder} lacks {len(lost):,} of {len(keys):,} examples, or has them "
                f"damaged, the first at place {lost[0]}, from 0: add them again"
            )
        slices = [shard.tokens for shard in self._shards]
        return StoredEmbeddings(slices, [self._places[key] for key in keys])

    def _open(self, path: Path) -> None:
        """Know a shard's examples, if its header is whole."""
        try:
            file = safe_open(path, framework="numpy")
            tokens = file.get_slice("tokens")
            offsets, squares, of_keys = (file.get_tensor(name) for name in TENSORS[1:])
            rows = zip(of_keys, offsets[:-1], offsets[1:], squares, strict=True)
        except FileNotFoundError:  # another process has removed it meanwhile
            return
        except (SafetensorError, OSError):
            self.damaged.append(path)
            return
        shard = len(self._shards)
        self._shards.append(_Shard(path, file, tokens))
        for key, start, stop, square in rows:
            self._places[key.tobytes()] = _Place(shard, int(start), int(stop), float(square))

    def _check(self, shard: int) -> None:
        """Forget a shard's examples if its bytes are not those that were written."""
        path, file, _ = self._shards[shard]
        if _told(file)[0] != _digest(file.get_tensor(name) for name in TENSORS):
            self.damaged.append(path)
            self._places = {k: place for k, place in self._places.items() if place.shard != shard}


class StoredEmbeddings:
    """Examples of a store, as `fisher_jax.select` streams them: nothing is held but their places.

    Args:
        slices: the tokens of each shard of a store.
        places: of the examples, in their order.

    Attributes:
        lengths: (N,) tokens of each.
        dim: D.
        dtype: float32, of what is read.
    """

    def __init__(self, slices: Sequence[Any], places: Sequence[_Place]) -> None:
        if not places:
            raise UserError("a pool needs at least one example")
        self._slices = slices
        self._shard, self._start, self._stop = np.asarray([p[:3] for p in places], np.int64).T
        self._squares = np.asarray([p.squares for p in places])
        self._mean: Float[np.ndarray, "D"] | None = None
        self._scale = np.float32(1)
        self._is_unit = False
        self._matrix: Float[np.ndarray, "D K"] | None = None
        self.lengths: Int[np.ndarray, "N"] = self._stop - self._start
        self.dim: int = self._slices[int(self._shard[0])].get_shape()[1]
        self._stored_dim = self.dim
        self.dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self.lengths)

    def read(self, examples: Int[np.ndarray, "n"]) -> Float[np.ndarray, "T D"]:
        """The tokens of some examples, one after the other."""
        ends = np.cumsum(self.lengths[examples])
        tokens = aligned((int(ends[-1]), self._stored_dim), self.dtype)
        for i, end in zip(examples.tolist(), ends.tolist(), strict=True):
            start, stop = int(self._start[i]), int(self._stop[i])
            tokens[end - (stop - start) : end] = self._slices[self._shard[i]][start:stop]
        if self._mean is not None:
            tokens -= self._mean
        if self._is_unit:
            norms = np.sqrt(np.einsum("td,td->t", tokens, tokens, dtype=np.float64))[:, None]
            tokens /= np.maximum(norms, np.finfo(tokens.dtype).tiny).astype(tokens.dtype)
        if self._scale != 1:
            tokens *= self._scale
        return tokens if self._matrix is None else tokens @ self._matrix

    def in_memory(self) -> TokenEmbeddings:
        """All of it, in memory."""
        offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        return TokenEmbeddings(self.read(np.arange(len(self))), offsets)

    def mean_squared_norm(self) -> float:
        """Mean of |x|^2 over all tokens as they are read; of `projected` ones as they were before.

        Projections keep it in expectation.
        """
        if self._is_unit:
            return 1.0
        of_mean = 0.0 if self._mean is None else float(self._mean.astype(np.float64) @ self._mean)
        stored = float(self._squares.sum()) / int(self.lengths.sum())
        return (stored - of_mean) * float(self._scale) ** 2

    def standardized(
        self, center: bool = False, normalize: Literal["rms", "unit", "none"] = "rms"
    ) -> "StoredEmbeddings":
        """What is stored, divided by its root mean squared norm as it is read.

        Args:
            center: subtract the mean of all tokens first, for which all are read once.
            normalize: "unit" divides each token by its own norm, "none" divides by nothing.
        """
        view = copy.copy(self)
        view._mean, view._scale, view._is_unit = None, np.float32(1), False  # as they are stored
        view._matrix, view.dim = None, self._stored_dim
        view._mean = view._token_mean() if center else None
        view._is_unit = normalize == "unit"
        view._matrix, view.dim = self._matrix, self.dim
        if normalize != "rms":
            return view
        norm = view.mean_squared_norm()
        check_squares(norm)
        view._scale = np.float32(1 / np.sqrt(norm)) if norm > 0 else np.float32(1)
        return view

    def projected(self, matrix_DxK: Float[np.ndarray, "D K"]) -> "StoredEmbeddings":
        """The same, every token x as x G when it is read: after all else that is done to them."""
        view = copy.copy(self)
        view._matrix, view.dim = matrix_DxK, matrix_DxK.shape[1]
        return view

    def _token_mean(self) -> Float[np.ndarray, "D"]:
        total = np.zeros(self.dim)
        order = np.lexsort((self._start, self._shard))  # each shard from one end to the other
        for part in pieces(self, order):
            total += self.read(part).sum(axis=0, dtype=np.float64)
        return (total / int(self.lengths.sum())).astype(self.dtype)


def write_numbers(path: Path, numbers: Float[np.ndarray, "N"], name: str = "") -> None:
    """A number a row, beside the embeddings; `name` says whose they are, for people."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with only_one(path.parent), replacing(path) as temporary:
        save_file({"numbers": numbers}, temporary, _facts([numbers], name))


def read_numbers(path: Path) -> Float[np.ndarray, "N"] | None:
    """What `write_numbers` wrote; None where there is no such file, or it was damaged."""
    with contextlib.suppress(SafetensorError, OSError), safe_open(path, framework="numpy") as file:
        numbers = file.get_tensor("numbers")
        if _told(file)[0] == _digest([numbers]):
            return numbers
    return None


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Meanwhile no other process writes into a folder, and what a killed one has left is gone."""
    with FileLock(folder / ".lock"):
        remove_leftovers_in(folder)
        yield


def named(path: Path) -> str:
    """Whose embeddings a shard has, empty where it does not say."""
    with contextlib.suppress(SafetensorError, OSError), safe_open(path, framework="numpy") as file:
        return _told(file)[1]
    return ""


def _facts(arrays: Iterable[np.ndarray], name: str) -> dict[str, str]:
    """Checksum and name, as one: several would be written in any order."""
    return {"written": f"{_digest(arrays)} {name}"}


def _told(file: Any) -> tuple[str, str]:
    """Both again, of an open file."""
    digest, _, name = (file.metadata() or {}).get("written", "").partition(" ")
    return digest, name


def _digest(arrays: Iterable[np.ndarray]) -> str:
    """Of some arrays, one after the other: their types, shapes and bytes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()
