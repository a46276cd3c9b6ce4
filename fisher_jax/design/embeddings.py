"""Token embeddings of a pool.

Axes, here and in every module: N examples, M tokens of an example, T all tokens, D embedding
width, L labels (vocabulary), K budget, B batch.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import DTypeLike

from fisher_jax.util.errors import UserError

_CHECK_ROWS = 1 << 16
ALIGNMENT = 64  # bytes
READ_AT_ONCE = 1 << 14  # tokens, where many are read

Pooling = Literal["mean", "last", "position"]


def aligned(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """An array to be filled that JAX's CPU device takes as it is; of others it makes a copy."""
    n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(n_bytes + ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % ALIGNMENT
    return memory[begin : begin + n_bytes].view(dtype).reshape(shape)


@dataclass(frozen=True, eq=False)
class TokenEmbeddings:
    """The pre-logit embeddings of N examples, one after the other and without padding.

    Example i owns the rows `tokens[offsets[i] : offsets[i + 1]]`, its X_i of shape (M_i, D).
    float32 and float64 are kept as they are and decide the precision of `fisher_jax.select`;
    every other number type becomes float32. Arrays are not copied where that can be helped.

    Args:
        tokens: (T, D) finite numbers.
        offsets: (N + 1,) integers from 0 to T, strictly increasing: no example is empty.

    Raises:
        ValueError: wrong shapes, an empty example or a non-finite number; the message names the
            first example concerned.
    """

    tokens: np.ndarray  # checked by hand, so that a mistake is a ValueError that explains itself
    offsets: np.ndarray

    def __post_init__(self) -> None:
        tokens, offsets = np.asarray(self.tokens), np.asarray(self.offsets)
        if tokens.ndim != 2 or tokens.shape[1] == 0:
            raise UserError(f"tokens must be (T, D) with D >= 1, got shape {tokens.shape}")
        if np.iscomplexobj(tokens):
            raise UserError(f"tokens must be real numbers, got {tokens.dtype}")
        if tokens.dtype not in (np.float32, np.float64):
            tokens = tokens.astype(np.float32)
        if offsets.ndim != 1 or len(offsets) < 2 or not np.issubdtype(offsets.dtype, np.integer):
            raise UserError(
                f"offsets must be N + 1 >= 2 integers, got {offsets.dtype} of shape {offsets.shape}"
            )
        offsets = offsets.astype(np.int64, copy=False)  # differences of unsigned ones wrap around
        if offsets[0] != 0 or offsets[-1] != len(tokens):
            raise UserError(
                f"offsets must run from 0 to the {len(tokens)} rows of tokens, "
                f"got {offsets[0]} to {offsets[-1]}"
            )
        empty = np.flatnonzero(np.diff(offsets) <= 0)
        if len(empty):
            raise UserError(
                f"example {empty[0]} has no tokens ({len(empty)} such examples): "
                "leave them out of the pool, offsets must strictly increase"
            )
        for start in range(0, len(tokens), _CHECK_ROWS):
            finite = np.isfinite(tokens[start : start + _CHECK_ROWS]).all(axis=1)
            if not finite.all():
                row = start + int(np.argmin(finite))
                example = int(np.searchsorted(offsets, row, side="right")) - 1
                raise UserError(
                    f"example {example} has a non-finite number (row {row} of tokens): "
                    "drop the example or mend its embeddings"
                )
        object.__setattr__(self, "tokens", tokens)
        object.__setattr__(self, "offsets", offsets)

    @classmethod
    def from_matrix(cls, rows: Float[np.ndarray, "N D"]) -> "TokenEmbeddings":
        """From one vector an example, which counts as one token; not copied."""
        rows = np.asarray(rows)
        if rows.ndim != 2:
            raise UserError(f"rows must be (N, D), a vector an example, got shape {rows.shape}")
        return cls(rows, np.arange(len(rows) + 1))

    @classmethod
    def from_list(cls, examples: Iterable[np.ndarray]) -> "TokenEmbeddings":
        """From one (M_i, D) array an example, or (D,) of one token; errors name the example."""
        arrays = [np.asarray(x) for x in examples]
        arrays = [x[None] if x.ndim == 1 else x for x in arrays]
        if not arrays:
            raise UserError("examples is empty: a pool needs at least one (M, D) array")
        for i, x in enumerate(arrays):
            if x.ndim != 2 or x.shape[1] != arrays[0].shape[-1]:
                raise UserError(
                    f"example {i} has shape {x.shape}, every example must be (M, D) "
                    f"with the D of example 0, whose shape is {arrays[0].shape}"
                )
        offsets = np.cumsum([0] + [len(x) for x in arrays])
        shape, dtype = (int(offsets[-1]), arrays[0].shape[1]), np.result_type(*arrays)
        return cls(np.concatenate(arrays, out=aligned(shape, dtype)), offsets)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "TokenEmbeddings":
        """From a safetensors file of `save`, or of others with `tokens` and `offsets`.

        float16 becomes float32.

        Raises:
            UserError: no such file, or none of embeddings.
        """
        from fisher_jax.design.embeddings_file import read_embeddings  # which imports this file

        return read_embeddings(Path(path))

    def save(self, path: str | os.PathLike[str], dtype: str | None = None) -> None:
        """Write `tokens` and `offsets` into a .safetensors file, which `--embeddings` reads too.

        Args:
            path: a file that is replaced, if there is one, when all is written.
            dtype: of the tokens in the file: float16, float32 or float64; default as they are.

        Raises:
            UserError: another name or number type, or numbers that it can't hold.
        """
        from fisher_jax.design.embeddings_file import write_embeddings

        write_embeddings(self, Path(path), dtype)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int | np.integer) -> Float[np.ndarray, "M D"]:
        """X_i (M_i, D) of example i, a view."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"example {i} of a pool of {len(self)}")
        i %= len(self)
        return self.tokens[self.offsets[i] : self.offsets[i + 1]]

    @property
    def lengths(self) -> Int[np.ndarray, "N"]:
        """Tokens of each example, M_i."""
        return np.diff(self.offsets)

    @property
    def dim(self) -> int:
        """Embedding width D."""
        return self.tokens.shape[1]

    @property
    def dtype(self) -> np.dtype:
        """float32 or float64."""
        return self.tokens.dtype

    def rows_of(self, examples: Int[np.ndarray, "n"]) -> Int[np.ndarray, "t"]:
        """Where the tokens of some examples stand in `tokens`, one example after the other."""
        lengths = self.lengths[examples]
        ends = np.cumsum(lengths)
        begins = self.offsets[examples] - ends + lengths
        return np.repeat(begins, lengths) + np.arange(lengths.sum())

    def read(self, examples: Int[np.ndarray, "n"]) -> Float[np.ndarray, "t D"]:
        """The tokens of some examples, one example after the other."""
        return self.tokens[self.rows_of(examples)]

    def in_memory(self) -> "TokenEmbeddings":
        """Itself: it is in memory."""
        return self

    def take(self, examples: Int[np.ndarray, "n"]) -> "TokenEmbeddings":
        """Some of the examples, as a pool of their own."""
        return part_of(self, examples)

    def mean_squared_norm(self) -> float:
        """Mean of |x|^2 over all T tokens, the scale against which a ridge is small or large."""
        flat = self.tokens.reshape(-1)
        parts = np.array_split(flat, len(flat) // (1 << 16) + 1)
        with np.errstate(over="ignore"):
            squares = [float(np.vdot(x, x)) for x in parts]
            for k, x in enumerate(parts):
                if not 1e-20 < squares[k] < 1e30:  # near the ends of float32's range
                    squares[k] = float(np.sum(np.square(x, dtype=np.float64)))
        return sum(squares) / len(self.tokens)

    def pooled(self, pooling: Pooling) -> Float[np.ndarray, "N D"]:
        """One vector an example: the mean of its tokens, the last one, or RDS+'s weighted mean.

        "position" weights token i = 1..M by `i / sum_i i`, since later tokens have seen more of
        the row (arXiv 2503.01807, which counts all tokens; here those with an embedding).

        Raises:
            ValueError: another pooling.
        """
        if pooling == "last":
            return self.tokens[self.offsets[1:] - 1]
        if pooling == "mean":  # without a copy of the pool
            sums_NxD = np.add.reduceat(self.tokens, self.offsets[:-1])
            return sums_NxD / self.lengths[:, None].astype(self.tokens.dtype)
        return np.add.reduceat(self.tokens * self.weights(pooling)[:, None], self.offsets[:-1])

    def weights(self, pooling: Pooling) -> Float[np.ndarray, "T"]:
        """What every token counts for in `pooled`; they add to 1 over an example.

        Raises:
            ValueError: another pooling.
        """
        lengths = self.lengths
        place_T = np.arange(1, len(self.tokens) + 1) - np.repeat(self.offsets[:-1], lengths)
        length_T = np.repeat(lengths, lengths)
        if pooling == "mean":
            weights_T = 1 / length_T
        elif pooling == "last":
            weights_T = place_T == length_T
        elif pooling == "position":
            weights_T = place_T / (length_T * (length_T + 1) / 2)
        else:
            raise UserError(f"pooling must be 'mean', 'last' or 'position', got {pooling!r}")
        return weights_T.astype(self.tokens.dtype)

    def as_dtype(self, dtype: np.dtype) -> "TokenEmbeddings":
        """The same in float32 or float64; itself if it is that already."""
        if dtype == self.dtype:
            return self
        return TokenEmbeddings(self.tokens.astype(dtype), self.offsets)

    def at_most_dim_rows(self) -> "TokenEmbeddings":
        """The same design with every example of more than D tokens cut to D rows.

        X_i is replaced by the triangular factor R of X_i = Q R: `X_i^T X_i = R^T R`, so every
        log-determinant stays what it is, and all work is done in the smaller of M x M and D x D.
        """
        lengths, dim = self.lengths, self.dim
        if lengths.max() <= dim:
            return self
        short = np.minimum(lengths, dim)
        offsets = np.concatenate([[0], np.cumsum(short)])
        tokens = np.empty((offsets[-1], dim), self.tokens.dtype)
        keep = np.repeat(lengths <= dim, lengths)
        tokens[np.repeat(lengths <= dim, short)] = self.tokens[keep]
        for length in np.unique(lengths[lengths > dim]):
            (members,) = np.nonzero(lengths == length)
            rows = self.offsets[members][:, None] + np.arange(length)
            factors = np.linalg.qr(self.tokens[rows], mode="r")
            tokens[offsets[members][:, None] + np.arange(dim)] = factors
        return TokenEmbeddings(tokens, offsets)


@runtime_checkable
class TokenSource(Protocol):
    """Token embeddings that are read example by example, so that they need not fit into memory."""

    def __len__(self) -> int: ...

    @property
    def lengths(self) -> Int[np.ndarray, "N"]:
        """Tokens of each example, at least 1."""
        ...

    @property
    def dim(self) -> int:
        """Embedding width D."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Precision of a selection: float32 or float64."""
        ...

    def mean_squared_norm(self) -> float:
        """Mean of |x|^2 over all tokens."""
        ...

    def read(self, examples: Int[np.ndarray, "n"]) -> Float[np.ndarray, "T D"]:
        """The tokens of some examples, one after the other."""
        ...


def pieces(source: TokenSource, order: Int[np.ndarray, "n"]) -> list[Int[np.ndarray, "_"]]:
    """Some examples in pieces of about as many tokens as are read at once, in their order."""
    piece_n = np.cumsum(source.lengths[order]) // READ_AT_ONCE
    return np.split(order, np.flatnonzero(np.diff(piece_n)) + 1) if len(order) else []


def part_of(source: TokenSource, examples: Int[np.ndarray, "n"]) -> TokenEmbeddings:
    """Some examples, in memory."""
    ends = np.cumsum(source.lengths[examples])
    return TokenEmbeddings(source.read(examples), np.concatenate([[0], ends]))


PoolLike = TokenEmbeddings | np.ndarray | Sequence[np.ndarray]  # see `as_embeddings`


def as_embeddings(emb: object, name: str = "emb") -> TokenEmbeddings:
    """`TokenEmbeddings` of what may stand for them.

    Args:
        emb: such already; a matrix (N, D), whose rows are examples of one token; or a list with
            an (M_i, D) array or a (D,) vector for each example.
        name: what errors call it.

    Raises:
        UserError: none of these, or as `TokenEmbeddings`.
    """
    if isinstance(emb, TokenEmbeddings):
        return emb
    if isinstance(emb, list | tuple):
        return TokenEmbeddings.from_list(emb)
    if hasattr(emb, "dtype") and np.ndim(np.asarray(emb)) == 2:
        return TokenEmbeddings.from_matrix(np.asarray(emb))
    raise UserError(
        f"{name} must be TokenEmbeddings, a matrix (N, D), or a list of (M, D) arrays or of "
        f"vectors, got {type(emb).__name__}"
    )


def as_source(emb: object) -> TokenSource:
    """A pool that is read as it is needed as it is, all else by `as_embeddings`."""
    return emb if isinstance(emb, TokenSource) else as_embeddings(emb)


def check_squares(norms: float | np.ndarray) -> None:
    """Refuse embeddings whose squared norms are too large for their numbers.

    Raises:
        ValueError: one of the norms is infinite.
    """
    if not np.isfinite(norms).all():
        raise UserError("the embeddings' squared norms overflow: divide them by their largest")


def as_targets(emb: TokenSource, targets: object, name: str = "targets") -> TokenEmbeddings:
    """`as_embeddings` of a task's rows, refused where they are not embedded as the pool is.

    Raises:
        UserError: another width, or as `as_embeddings`.
    """
    targets = as_embeddings(targets, name)
    if targets.dim != emb.dim:
        raise UserError(f"{name} must have the pool's width, {emb.dim}, got {targets.dim}")
    return targets
