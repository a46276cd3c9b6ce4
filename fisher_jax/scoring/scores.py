"""What a language model says of rows: scores of tokens and of rows, without T x L logits.

`token_scores` goes over the vocabulary once, a chunk of tokens at a time; rankings made of its
results are in `selectors.scored`.
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fisher_jax.design import HIGHEST
from fisher_jax.models import TokenizedRows, capped
from fisher_jax.util.dispatch import ahead
from fisher_jax.util.errors import UserError
from fisher_jax.util.platforms import scored_tokens
from fisher_jax.util.progress import OnProgress


class TokenScores(NamedTuple):
    """Scores of T tokens, p a token's predicted distribution over L labels and y its label.

    Attributes:
        nll_T: `-log p_y` in nats.
        entropy_T: `-sum_l p_l log p_l` in nats, from 0 to log L.
        fisher_trace_T: `1 - |p|^2`, the trace of `diag(p) - p p^T`, from 0 to 1 - 1/L.
        gradient_T: `|p - e_y|^2`, the squared norm of the gradient in the logits, from 0 to 2.
    """

    nll_T: Float[np.ndarray, "T"]
    entropy_T: Float[np.ndarray, "T"]
    fisher_trace_T: Float[np.ndarray, "T"]
    gradient_T: Float[np.ndarray, "T"]


def token_scores(
    head_LxD: Float[Array | np.ndarray, "L D"],
    tokens_TxD: Float[np.ndarray, "T D"],
    labels_T: Int[np.ndarray, "T"],
    chunk: int | None = None,
    on_progress: OnProgress | None = None,
    cap: float | None = None,
) -> TokenScores:
    """Loss, entropy, Fisher trace and gradient norm of every token, in float32.

    `p = softmax(head x)`. Only `chunk` x L logits are held at a time, and all chunks share one
    compiled program. Scores are formed from `1 - p_top` and never from p_top, so that they keep
    their relative precision where the model is sure.

    Args:
        head_LxD: the model's last layer, `LanguageModel.module.head`.
        tokens_TxD: hidden states as the head multiplies them: `embed` with `normalize="none"`.
        labels_T: what follows each token, as `labels_of` gives it.
        chunk: tokens a step; default the device's, `platforms.scored_tokens`.
        on_progress: called with the number of tokens done.
        cap: of the logits, `LanguageModel.module.logit_cap`.

    Raises:
        ValueError: shapes that don't fit each other, a label outside 0..L-1, a chunk below 1.
    """
    labels_T = np.asarray(labels_T)
    if labels_T.shape != tokens_TxD.shape[:1]:
        raise UserError(
            f"labels must be one a token, {len(tokens_TxD)}, got shape {labels_T.shape}"
        )
    if len(labels_T) and not 0 <= labels_T.min() <= labels_T.max() < len(head_LxD):
        raise UserError(
            f"labels must be from 0 to {len(head_LxD) - 1}, the head's last, "
            f"got {labels_T.min()} to {labels_T.max()}"
        )
    score = functools.partial(_score, cap=cap)
    arrays = (tokens_TxD, labels_T.astype(np.int32))
    return TokenScores(*by_chunks(score, head_LxD, arrays, chunk, on_progress))


def top_probabilities(
    head_LxD: Float[Array | np.ndarray, "L D"],
    tokens_TxD: Float[np.ndarray, "T D"],
    k: int = 32,
    chunk: int | None = None,
    on_progress: OnProgress | None = None,
    cap: float | None = None,
) -> tuple[Float[np.ndarray, "T k"], Int[np.ndarray, "T k"]]:
    """The k largest probabilities of every token, largest first, and their labels.

    What is left out has a squared norm of at most `P (1 - P) / k <= 1 / (4 k)`, P the sum of what
    is kept: every probability left out is at most P / k.

    Raises:
        ValueError: a head of another width than the tokens, a k outside 1..L, a chunk below 1.
    """
    if not 1 <= k <= len(head_LxD):
        raise UserError(f"k must be from 1 to {len(head_LxD)}, the head's labels, got {k}")
    top = functools.partial(_top, k=k, cap=cap)
    values_Txk, labels_Txk = by_chunks(top, head_LxD, (tokens_TxD,), chunk, on_progress)
    return values_Txk, labels_Txk


def labels_of(rows: TokenizedRows) -> Int[np.ndarray, "T"]:
    """The label of every counted position, in the order of `embed.forward`'s embeddings."""
    return np.concatenate([np.empty(0, np.int32), *rows.labels])


def row_means(
    values_T: Float[np.ndarray, "T"], offsets: Int[np.ndarray, "_"]
) -> Float[np.ndarray, "N"]:
    """Mean over each row's tokens, in float64: of `nll_T`, the log-perplexity of each row.

    Args:
        values_T: a number a token, such as its loss in nats.
        offsets: (N + 1,) as in `TokenEmbeddings`.

    Raises:
        ValueError: offsets that do not run from 0 to T, or an empty row.
    """
    _check_offsets(offsets, len(values_T))
    return np.add.reduceat(values_T.astype(np.float64), offsets[:-1]) / np.diff(offsets)


def el2n(scores: TokenScores, offsets: Int[np.ndarray, "_"]) -> Float[np.ndarray, "N"]:
    """Mean over a row's tokens of `|p - e_y|`: EL2N (Paul et al. 2021, arXiv 2107.07075)."""
    return row_means(np.sqrt(scores.gradient_T), offsets)


def gradient_norms(
    scores: TokenScores, tokens_TxD: Float[np.ndarray, "T D"], offsets: Int[np.ndarray, "_"]
) -> Float[np.ndarray, "N"]:
    """Mean over a row's tokens of `|p - e_y| |x|`, GraNd of the last layer.

    A token's gradient in the head is `(p - e_y) x^T`, so this is its exact Frobenius norm. The
    norm of the row's summed gradient is another number, at most M times this one.

    Args:
        tokens_TxD: the same hidden states that were scored.
    """
    norms_T = np.sqrt(np.einsum("td,td->t", tokens_TxD, tokens_TxD))
    return row_means(np.sqrt(scores.gradient_T) * norms_T, offsets)


def by_chunks(
    score: Callable[..., tuple[Array, ...]],
    head_LxD: Array | np.ndarray,
    arrays: tuple[np.ndarray, ...],
    chunk: int | None = None,
    on_progress: OnProgress | None = None,
) -> list[np.ndarray]:
    """`score(head, *arrays)` of all tokens, in chunks of one shape; the last one is padded."""
    n_tokens = len(arrays[0])
    if chunk is None:
        chunk = scored_tokens(len(head_LxD))
    if chunk < 1:
        raise UserError(f"chunk must be at least 1, got {chunk}")
    if head_LxD.shape[1] != arrays[0].shape[1]:
        raise UserError(
            f"the head multiplies states of width {head_LxD.shape[1]}, "
            f"tokens have {arrays[0].shape[1]}"
        )
    head = jnp.asarray(head_LxD, jnp.float32)

    def begun() -> Iterator[tuple[int, tuple[Array, ...]]]:
        for begin in range(0, max(1, n_tokens), chunk):
            own = [_padded(array[begin : begin + chunk], chunk) for array in arrays]
            yield begin, score(head, *own)

    parts = []
    for begin, scores in ahead(begun()):
        count = min(chunk, n_tokens - begin)
        parts.append([np.asarray(value)[:count] for value in scores])
        if on_progress is not None:
            on_progress(begin + count)
    return [np.concatenate(values) for values in zip(*parts, strict=True)]


def _padded(array: np.ndarray, length: int) -> Array:
    is_float = np.issubdtype(array.dtype, np.floating)
    padded = np.zeros((length, *array.shape[1:]), np.float32 if is_float else np.int32)
    padded[: len(array)] = array
    return jnp.asarray(padded)


def logits(head_LxD: Array, hidden_CxD: Array, cap: float | None = None) -> Array:
    """(C, L) of C states; `cap` as `token_scores` has it."""
    return capped(jnp.matmul(hidden_CxD, head_LxD.T, precision=HIGHEST), cap)


@functools.partial(jax.jit, static_argnames=("cap",))
def _score(
    head_LxD: Float[Array, "L D"],
    hidden_CxD: Float[Array, "C D"],
    labels_C: Int[Array, "C"],
    *,
    cap: float | None,
) -> tuple[Array, ...]:
    logits_CxL = logits(head_LxD, hidden_CxD, cap)
    top_C = jnp.argmax(logits_CxL, axis=1).astype(jnp.int32)
    below_CxL = logits_CxL - jnp.max(logits_CxL, axis=1, keepdims=True)  # at most 0
    is_top_CxL = jnp.arange(len(head_LxD), dtype=jnp.int32)[None] == top_C[:, None]
    others_CxL = jnp.where(is_top_CxL, 0, jnp.exp(below_CxL))  # the top label's would be 1
    rest_C = jnp.sum(others_CxL, axis=1)
    square_C = jnp.sum(others_CxL**2, axis=1)
    slope_C = jnp.sum(others_CxL * below_CxL, axis=1)

    total_C, log_total_C = 1 + rest_C, jnp.log1p(rest_C)
    off_top_C = rest_C / total_C  # 1 - p_top
    below_label_C = jnp.take_along_axis(below_CxL, labels_C[:, None], axis=1)[:, 0]
    # off the token's label: the sums over `others`, the top label put in and its own taken out
    swap_C = jnp.where(labels_C == top_C, 0, 1)
    label_C = swap_C * jnp.exp(below_label_C)
    off_label_C = (swap_C + (rest_C - label_C)) / total_C  # 1 - p_y
    return (
        log_total_C - below_label_C,
        log_total_C - slope_C / total_C,
        off_top_C * (2 - off_top_C) - square_C / total_C**2,
        off_label_C**2 + (swap_C + (square_C - label_C**2)) / total_C**2,
    )


@functools.partial(jax.jit, static_argnames=("k", "cap"))
def _top(head_LxD: Array, hidden_CxD: Array, *, k: int, cap: float | None) -> tuple[Array, Array]:
    values_Cxk, labels_Cxk = jax.lax.top_k(jax.nn.softmax(logits(head_LxD, hidden_CxD, cap)), k)
    return values_Cxk, labels_Cxk


def _check_offsets(offsets: np.ndarray, n_tokens: int) -> None:
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != n_tokens:
        raise UserError(
            f"offsets must run from 0 to {n_tokens}, the number of tokens, "
            f"got {len(offsets)} from {offsets[:1]} to {offsets[-1:]}"
        )
    if np.diff(offsets).min() < 1:
        raise UserError(f"row {np.argmin(np.diff(offsets))} has no tokens: offsets must increase")
