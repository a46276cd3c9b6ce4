"""Texts to token embeddings: length buckets, full batches, one compiled program a bucket."""

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from fisher_jax.data import Chat, PoolError, PromptCompletion, Row, row_of
from fisher_jax.design import TokenEmbeddings, aligned, check_squares, ladder
from fisher_jax.models.activations import activation_bytes
from fisher_jax.models.chat import written
from fisher_jax.models.errors import ModelError
from fisher_jax.models.load import LanguageModel, load_model
from fisher_jax.util.dispatch import ahead
from fisher_jax.util.errors import UserError
from fisher_jax.util.platforms import here, within_memory
from fisher_jax.util.progress import OnProgress

MAX_BUCKETS = 10
LENGTH_STEP = 4  # padded lengths are multiples of this

Normalize = Literal["rms", "unit", "none"]
Positions = Literal["completion", "prompt"]


class TokenizedRows(NamedTuple):
    """Rows as token ids. Of row i the tokens `first[i]:` are predicted and count; was it cut?"""

    ids: list[Int[np.ndarray, "M"]]
    first: Int[np.ndarray, "N"]
    cut: Bool[np.ndarray, "N"]

    @property
    def counted(self) -> Int[np.ndarray, "N"]:
        """Embeddings a row has; 0 where there is nothing to predict."""
        lengths = np.asarray([len(ids) for ids in self.ids], np.int64)
        return np.maximum(lengths - self.first, 0)

    def take(self, rows: np.ndarray) -> "TokenizedRows":
        """Some of the rows."""
        return TokenizedRows([self.ids[i] for i in rows], self.first[rows], self.cut[rows])

    @property
    def offsets(self) -> Int[np.ndarray, "_"]:
        """(N + 1,): row i's embeddings are `offsets[i] : offsets[i + 1]`."""
        return np.concatenate([[0], np.cumsum(self.counted)])


def embed(
    texts: Sequence[str | Mapping[str, Any]],
    model: str | os.PathLike[str] | LanguageModel = "smollm2-135m",
    *,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    dtype: str = "float32",
    normalize: Normalize = "rms",
    center: bool = False,
    positions: Positions = "completion",
    on_progress: OnProgress | None = None,
) -> TokenEmbeddings:
    """The pre-logit embeddings of rows of text.

    A row's tokens are what the model's tokenizer gives with its own defaults. Position j counts
    when it predicts a token of the row, so a row of m tokens has m - 1 embeddings. Prompt and
    completion are tokenised apart and joined, and only positions that predict a token of the
    completion count.

    Args:
        texts: strings, or mappings with `text`, or `prompt` and `completion` strings; chats as
            lists of messages in their place, or as `messages`, see
            `fisher_jax.models.chat.written`.
        model: a name or path as `fisher_jax.models.load.load_model` takes it, or a loaded model.
        max_length: tokens a row may have, longer ones are cut; default the model's context.
        batch_tokens: of a forward pass, padding included, see `forward`.
        dtype: "float32" or "bfloat16", for a model given by name.
        normalize: "rms" divides all by the root mean squared norm of the pool's embeddings,
            "unit" each by its own norm.
        center: subtract the pool's mean embedding first.
        positions: "prompt" takes the embeddings of the prompt's tokens instead, which no token of
            the completion has influenced; for rows with a prompt.
        on_progress: called with the number of rows done.

    Raises:
        ValueError: a row with nothing to predict, an argument out of range, or no such model.
    """
    check_rows(texts)
    _check_normalize(normalize)
    by_name = isinstance(model, (str, os.PathLike))
    language_model = load_model(os.fspath(model), dtype) if by_name else model
    rows = [_as_row(text, i) for i, text in enumerate(texts)]
    tokenized = tokenize(language_model, rows, max_length, positions, "texts: row {}".format)
    empty = np.flatnonzero(tokenized.counted == 0)
    if len(rows) == 0 or len(empty):
        at = f"row {empty[0]} has nothing to predict: leave it out" if len(rows) else "no rows"
        raise UserError(f"texts: {at}")
    tokens = forward(language_model, tokenized, batch_tokens, on_progress)
    return TokenEmbeddings(standardize(tokens, normalize, center), tokenized.offsets)


def tokenize(
    model: LanguageModel,
    rows: Sequence[Row | Chat],
    max_length: int | None = None,
    positions: Positions = "completion",
    where: Callable[[int], str] = "row {}".format,
) -> TokenizedRows:
    """Token ids of the rows, cut to `max_length` (default: the model's context).

    Chats are first `written` by the model's template; `where` names row i in messages. Of rows with
    a completion, `positions` decides which count: those that predict it, or those of the prompt,
    the last of which predicts the completion's first token.

    Raises:
        ValueError: a max_length that the model can't take; prompt positions of rows without one;
            a token that the model doesn't know.
    """
    if positions not in ("completion", "prompt"):
        raise UserError(f"positions must be 'completion' or 'prompt', got {positions!r}")
    texts = written(model, rows, where)
    plain = next((i for i, row in enumerate(texts) if isinstance(row, str)), None)
    if positions == "prompt" and plain is not None:
        raise UserError(
            f"{where(plain)} has no prompt: prompt positions are for prompt + completion rows"
        )
    limit = model.context if max_length is None else max_length
    if not isinstance(limit, int | np.integer) or not 2 <= limit <= model.context:
        raise UserError(
            f"max_length must be from 2 to {model.context}, the context of {model.name}, "
            f"got {limit}"
        )
    is_chat = [isinstance(row, Chat) for row in rows]
    prompts = [row if isinstance(row, str) else row.prompt for row in texts]
    completions = [row.completion for row in texts if isinstance(row, PromptCompletion)]

    def encode(texts: list[str], special: bool) -> list[list[int]]:
        if not texts:
            return []
        return model.tokenizer(texts, add_special_tokens=special)["input_ids"]

    completion_ids = iter(encode(completions, special=False))
    of_kind = [[p for p, c in zip(prompts, is_chat, strict=True) if c == chat] for chat in (0, 1)]
    # a chat template brings its own special tokens
    heads = [iter(encode(of_kind[chat], special=not chat)) for chat in (0, 1)]
    ids, first, cut = [], [], []
    for row, chat in zip(texts, is_chat, strict=True):
        head = next(heads[chat])
        whole, begin = head, 1
        if not isinstance(row, str):
            whole = head + next(completion_ids)
        cut.append(len(whole) > limit)
        if positions == "prompt":
            whole = whole[: len(head) + 1]
        elif not isinstance(row, str):
            begin = max(1, len(head))
        ids.append(np.asarray(whole[:limit], np.int32))
        first.append(begin)
        if (highest := max(whole, default=0)) >= model.module.config.vocab:
            raise UserError(
                f"{where(len(ids) - 1)} has token {highest}, outside the vocabulary of "
                f"{model.name}: its tokenizer is not the model's own, mend that folder"
            )
    return TokenizedRows(ids, np.asarray(first, np.int64), np.asarray(cut, bool))


def forward(
    model: LanguageModel,
    rows: TokenizedRows,
    batch_tokens: int | None = None,
    on_progress: OnProgress | None = None,
) -> Float[np.ndarray, "T D"]:
    """Embeddings of the counted positions of all rows, one after the other.

    A row's last token predicts nothing and is not fed. Rows are sorted into length buckets and
    padded on the right, where causal attention can't see the padding.

    Args:
        batch_tokens: of a forward pass, padding included; default the device's `forward_tokens` in
            `fisher_jax.util.platforms`. Fewer where they would take an eighth of the device's
            memory.
        on_progress: called with the number of rows done.

    Raises:
        ValueError: batch_tokens below 1, or a model whose embeddings are not finite.
    """
    if batch_tokens is None:
        batch_tokens = here().forward_tokens
    if batch_tokens < 1:
        raise UserError(f"batch_tokens must be at least 1, got {batch_tokens}")
    fed = np.asarray([len(ids) - 1 for ids in rows.ids])
    lengths, offsets = rows.counted, rows.offsets
    tokens_TxD = aligned((int(offsets[-1]), model.dim), np.float32)
    graph, weights = nnx.split(model.module)
    steps = _padded_lengths(model, fed[fed > 0]).tolist()  # a row of one token is not fed
    batches = []
    for length, lower in zip(steps, [0, *steps][:-1], strict=True):
        (members,) = np.nonzero((fed > lower) & (fed <= length))
        of_row = length * activation_bytes(model.module.config, length)
        n_batches = -(-len(members) // within_memory(max(1, batch_tokens // length), of_row))
        size = -(-len(members) // n_batches)  # equal batches: one shape, little padding
        starts = range(0, len(members), size)
        batches += [((size, length), members[begin : begin + size]) for begin in starts]

    def begun() -> Iterator[tuple[np.ndarray, Array, np.ndarray | slice]]:
        """Each batch's rows, hidden states on the device, and where the counted ones are."""
        for k in np.random.default_rng(0).permutation(len(batches)):  # so that the rate is steady
            (size, length), chosen = batches[k]
            ids_BxT = np.zeros((size, length), np.int32)
            counts_BxT = np.zeros((size, length), bool)
            for slot, i in enumerate(chosen):
                ids_BxT[slot, : fed[i]] = rows.ids[i][:-1]
                counts_BxT[slot, rows.first[i] - 1 : fed[i]] = True
            yield chosen, *_counted(_hidden(graph, weights, ids_BxT), np.flatnonzero(counts_BxT))

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
    first = np.asarray([len(prompt) for prompt in prompts], np.int64)
    rows = TokenizedRows(ids, first, np.zeros(len(ids), bool))
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
def _hidden(graph: nnx.GraphDef, weights: nnx.State, ids_BxT: Int[Array, "B T"]) -> Array:
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
            f"texts must be a list of rows, got one {type(texts).__name__}: of a table pass the "
            "column's values, or a list of mappings"
        )


def _check_normalize(normalize: str) -> None:
    if normalize not in ("rms", "unit", "none"):
        raise UserError(f"normalize must be 'rms', 'unit' or 'none', got {normalize!r}")


def _as_row(text: str | Mapping[str, Any], i: int) -> Row | Chat:
    where = f"texts: row {i}"
    if isinstance(text, str):
        return row_of([text], ["text"], where)
    for columns in (["text"], ["messages"], ["prompt", "completion"]):
        if isinstance(text, Mapping) and {*columns} <= {*text}:
            return row_of([text[column] for column in columns], columns, where)
    raise PoolError(
        f"{where} is neither a string nor a mapping with text, messages, or prompt and completion"
    )
