"""Texts to token embeddings: length buckets, full batches, one compiled program a bucket."""

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from fisher_jax.data import Example, PoolError, examples_of
from fisher_jax.design import TokenEmbeddings, aligned, check_squares, ladder
from fisher_jax.models.activations import activation_bytes
from fisher_jax.models.errors import ModelError
from fisher_jax.models.load import LanguageModel, load_model
from fisher_jax.models.tokenize import Positions, TokenizedRows, tokenize
from fisher_jax.util.dispatch import ahead
from fisher_jax.util.errors import UserError
from fisher_jax.util.platforms import here, within_memory
from fisher_jax.util.progress import OnProgress

MAX_BUCKETS = 10
LENGTH_STEP = 4  # padded lengths are multiples of this

Normalize = Literal["rms", "unit", "none"]


def embed(
    texts: Sequence[str | Mapping[str, Any] | Example],
    model: str | os.PathLike[str] | LanguageModel = "smollm2-135m",
    *,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    dtype: str = "float32",
    normalize: Normalize = "rms",
    center: bool = False,
    positions: Positions = "completion",
    eos: bool | None = None,
    mesh: Mesh | None = None,
    on_progress: OnProgress | None = None,
) -> TokenEmbeddings:
    """The pre-logit embeddings of rows of text.

    Position j counts when it predicts a token that is learnt: of a text of m tokens m - 1, of a
    prompt and a completion those of the completion, of a chat those of the assistant's turns, see
    `fisher_jax.models.tokenize.tokenize`.

    Args:
        texts: strings, or mappings in any of the shapes of `fisher_jax.data.shapes`: `text`,
            `prompt` and `completion`, `messages`, Alpaca's, ShareGPT's, ...
        model: a name or path as `fisher_jax.models.load.load_model` takes it, or a loaded model.
        max_length: tokens a row may have, longer ones are cut; default the model's context.
        batch_tokens: of a forward pass, padding included, see `forward`.
        dtype: "float32" or "bfloat16", for a model given by name.
        normalize: "rms" divides all by the root mean squared norm of the pool's embeddings,
            "unit" each by its own norm.
        center: subtract the pool's mean embedding first.
        positions: "all" counts all tokens; "prompt" takes those of the prompt instead, which no
            token of the completion has influenced; for rows with a prompt.
        eos: whether the end of a row is learnt, see `tokenize`.
        mesh: devices of this process over which the rows of a pass are divided, `batch_tokens` for
            each; every one of them holds the model.
        on_progress: called with the number of rows done.

    Raises:
        ValueError: a row with nothing to predict, an argument out of range, or no such model.
    """
    check_rows(texts)
    _check_normalize(normalize)
    by_name = isinstance(model, (str, os.PathLike))
    language_model = load_model(os.fspath(model), dtype) if by_name else model
    try:
        rows = examples_of(texts)
    except PoolError as error:
        raise PoolError(f"texts: {error}") from None
    where = "texts: row {}".format
    tokenized = tokenize(language_model, rows, max_length, positions, where, eos=eos)
    empty = np.flatnonzero(tokenized.counted == 0)
    if len(rows) == 0 or len(empty):
        at = f"row {empty[0]} has nothing to predict: leave it out" if len(rows) else "no rows"
        raise UserError(f"texts: {at}")
    tokens = forward(language_model, tokenized, batch_tokens, on_progress, mesh)
    return TokenEmbeddings(standardize(tokens, normalize, center), tokenized.offsets)


class Pass(NamedTuple):
    """A forward pass: a batch of rows, padded to one shape.

    Attributes:
        size: rows of the batch.
        length: tokens of each, padding included.
        rows: (n,) those fed, at most `size`.
    """

    size: int
    length: int
    rows: Int[np.ndarray, "n"]


def passes_of(
    model: LanguageModel, rows: TokenizedRows, batch_tokens: int | None = None, n_devices: int = 1
) -> list[Pass]:
    """The forward passes of all rows, short rows first.

    Rows are sorted into length buckets and padded on the right, where causal attention can't see
    the padding. What a row's embeddings are, to the bit, depends on the row and on the shape of
    its pass, not on the rows beside it.

    Args:
        batch_tokens: as `forward`.
        n_devices: that a pass's rows are divided over, as many on each.

    Raises:
        ValueError: batch_tokens below 1.
    """
    if batch_tokens is None:
        batch_tokens = here().forward_tokens
    if batch_tokens < 1:
        raise UserError(f"batch_tokens must be at least 1, got {batch_tokens}")
    fed = np.asarray([len(ids) - 1 for ids in rows.ids], np.int64)
    steps = _padded_lengths(model, fed[fed > 0]).tolist()  # a row of one token is not fed
    passes = []
    for length, lower in zip(steps, [0, *steps][:-1], strict=True):
        (members,) = np.nonzero((fed > lower) & (fed <= length))
        of_row = length * activation_bytes(model.module.config, length)
        at_most = n_devices * within_memory(max(1, batch_tokens // length), of_row)
        n_batches = -(-len(members) // at_most)
        size = -(-len(members) // n_batches)  # equal batches: one shape, little padding
        size = -(-size // n_devices) * n_devices
        starts = range(0, len(members), size)
        passes += [Pass(size, length, members[begin : begin + size]) for begin in starts]
    return passes


def forward(
    model: LanguageModel,
    rows: TokenizedRows,
    batch_tokens: int | None = None,
    on_progress: OnProgress | None = None,
    mesh: Mesh | None = None,
) -> Float[np.ndarray, "T D"]:
    """Embeddings of the counted positions of all rows, one after the other.

    A row's last token predicts nothing and is not fed.

    Args:
        batch_tokens: of a forward pass, padding included; default the device's `forward_tokens` in
            `fisher_jax.util.platforms`. Fewer where they would take an eighth of the device's
            memory.
        on_progress: called with the number of rows done.
        mesh: as `embed`.

    Raises:
        ValueError: batch_tokens below 1, a model whose embeddings are not finite, or a mesh with
            devices of other processes.
    """
    passes = passes_of(model, rows, batch_tokens, 1 if mesh is None else mesh.size)
    mixed = np.random.default_rng(0).permutation(len(passes))  # so that the rate is steady
    return run_passes(model, rows, [passes[k] for k in mixed], on_progress, mesh)


def run_passes(
    model: LanguageModel,
    rows: TokenizedRows,
    passes: Sequence[Pass],
    on_progress: OnProgress | None = None,
    mesh: Mesh | None = None,
) -> Float[np.ndarray, "T D"]:
    """`forward` by passes, in which every row of more than a token is.

    Raises:
        ValueError: a model whose embeddings are not finite, or a mesh of other processes.
    """
    fed = np.asarray([len(ids) - 1 for ids in rows.ids])
    lengths, offsets = rows.counted, rows.offsets
    tokens_TxD = aligned((int(offsets[-1]), model.dim), np.float32)
    graph, weights = nnx.split(model.module)
    by_row = None  # where the ids go
    if mesh is not None:
        if any(device.process_index != jax.process_index() for device in mesh.devices.flat):
            raise UserError(
                "mesh has devices of other processes: pass one of jax.local_devices(), and let "
                "each process embed a part of the rows"
            )
        by_row = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        weights = jax.device_put(weights, NamedSharding(mesh, PartitionSpec()))

    def begun() -> Iterator[tuple[np.ndarray, Array, np.ndarray | slice]]:
        """Each pass's rows, hidden states on the device, and where the counted ones are."""
        for size, length, chosen in passes:
            ids_BxT = np.zeros((size, length), np.int32)
            counts_BxT = np.zeros((size, length), bool)
            for slot, i in enumerate(chosen):
                ids_BxT[slot, : fed[i]] = rows.ids[i][:-1]
                counts_BxT[slot, : fed[i]] = rows.learnt[i][1:]
            fed_BxT = jax.device_put(ids_BxT, by_row)
            yield (
                chosen,
                *_counted(hidden_states(graph, weights, fed_BxT), np.flatnonzero(counts_BxT)),
            )

    done = int(np.sum(fed < 1))
    for chosen, hidden, counted in ahead(begun()):
        states_KxD = np.asarray(hidden).reshape(-1, model.dim)[counted]
        if not np.isfinite(states_KxD).all():
            raise ModelError(
                f"{model.name} gives embeddings that are not finite: its weights are damaged, "
                "or too large for this dtype"
            )
        ends = np.cumsum(lengths[chosen])
        for i, states_MxD in zip(chosen, np.split(states_KxD, ends[:-1]), strict=True):
            tokens_TxD[offsets[i] : offsets[i + 1]] = states_MxD
        done += len(chosen)
        if on_progress is not None:
            on_progress(done)
    return tokens_TxD


def _padded_lengths(model: LanguageModel, fed_N: Int[np.ndarray, "N"]) -> Int[np.ndarray, "S"]:
    """Lengths that rows are padded to: as few as pay, since each is a shape to compile.

    The least of `tokens fed, padding included + S compile_cost / (2 P)`; a forward pass of a model
    of P parameters takes 2 P operations a token.
    """
    compilation = here().compile_cost / (2 * model.n_parameters)

    def cost(steps: Int[np.ndarray, "S"]) -> float:
        return float(steps[np.searchsorted(steps, fed_N)].sum()) + compilation * len(steps)

    ladders = [ladder(fed_N, most, LENGTH_STEP) for most in range(1, MAX_BUCKETS + 1)]
    return np.minimum(min(ladders, key=cost), model.context)


def _counted(
    hidden_BxTxD: Array, counted_K: Int[np.ndarray, "K"]
) -> tuple[Array, np.ndarray | slice]:
    """The hidden states to fetch, and which of them count.

    Where at most half of the positions count, these are gathered on the device and filled up to a
    half, a quarter, ... of all, so that few shapes are compiled.
    """
    room = whole = hidden_BxTxD.shape[0] * hidden_BxTxD.shape[1]
    while room // 2 >= max(1, len(counted_K)):
        room //= 2
    if room == whole:
        return hidden_BxTxD, counted_K
    return _gathered(hidden_BxTxD, np.resize(counted_K, room)), slice(len(counted_K))


def last_states(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    batch_tokens: int | None = None,
    on_progress: OnProgress | None = None,
) -> Float[np.ndarray, "N D"]:
    """The embedding after each prompt's last token, which predicts what follows it."""
    ids = [np.asarray([*prompt, 0], np.int32) for prompt in prompts]  # the last one is not fed
    rows = TokenizedRows.after(ids, np.asarray([len(prompt) for prompt in prompts], np.int64))
    return forward(model, rows, batch_tokens, on_progress)


def standardize(
    tokens_TxD: Float[np.ndarray, "T D"],
    normalize: Normalize,
    center: bool,
    *others: Float[np.ndarray, "_ D"],
) -> Float[np.ndarray, "T D"]:
    """Centre on the mean, then divide by the root mean squared norm, or each by its own.

    In place; others are centred and divided by the same numbers ("unit": each by its own norm).

    Raises:
        ValueError: an unknown `normalize`, or numbers too large to square.
    """
    _check_normalize(normalize)
    if center:
        mean = tokens_TxD.mean(axis=0, dtype=np.float64).astype(tokens_TxD.dtype)
        for part in (tokens_TxD, *others):
            part -= mean
    if normalize == "unit":
        for part in (tokens_TxD, *others):
            norms_T = np.sqrt(np.einsum("td,td->t", part, part, dtype=np.float64))[:, None]
            check_squares(norms_T)
            part /= np.maximum(norms_T, np.finfo(part.dtype).tiny).astype(part.dtype)
    if normalize == "rms":
        scale = np.einsum("td,td->", tokens_TxD, tokens_TxD, dtype=np.float64, casting="safe")
        check_squares(scale)
        if scale > 0:
            for part in (tokens_TxD, *others):
                part /= np.sqrt(scale / len(tokens_TxD)).astype(tokens_TxD.dtype)
    return tokens_TxD


@functools.partial(jax.jit, static_argnames="graph")
def hidden_states(graph: nnx.GraphDef, weights: nnx.State, ids_BxT: Int[Array, "B T"]) -> Array:
    """The forward pass itself: states (B, T, D) that the head multiplies, float32."""
    return nnx.merge(graph, weights)(ids_BxT).astype(jnp.float32)


@jax.jit
def _gathered(hidden_BxTxD: Array, at_K: Int[Array, "K"]) -> Array:
    return hidden_BxTxD.reshape(-1, hidden_BxTxD.shape[-1])[at_K]


def check_rows(texts: object) -> None:
    """Refuse one string, and tables, of which one would go over the columns.

    Raises:
        ValueError: it is one of them.
    """
    if isinstance(texts, (str, Mapping)) or hasattr(texts, "columns"):
        raise UserError(
            f"texts must be a list of rows, got one {type(texts).__name__}: of a DatasetDict take "
            "a split, of a table pass the column's values, or a list of mappings"
        )


def _check_normalize(normalize: str) -> None:
    if normalize not in ("rms", "unit", "none"):
        raise UserError(f"normalize must be 'rms', 'unit' or 'none', got {normalize!r}")
