"""Texts continued by a model: prompts read in one pass, then a token a step from memory."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Key

from fisher_jax.models.activations import activation_bytes
from fisher_jax.models.decoder import Decoder, Sizes, capped, causal_attention
from fisher_jax.models.decoder.attention import Limits
from fisher_jax.models.load import LanguageModel
from fisher_jax.util.checks import check_seed
from fisher_jax.util.errors import UserError
from fisher_jax.util.platforms import here, within_memory
from fisher_jax.util.progress import OnProgress

STEPS_A_REPORT = 32  # between two calls of on_progress
SHORTEST = 16  # least room for prompts and for continuations, in tokens

_Pair = tuple[Array, Array]  # keys and values


class Sampling(NamedTuple):
    """How a token is taken from the logits; see `generate_ids`."""

    temperature: float | int = 0.0
    top_k: int | None = None
    top_p: float | int | None = None


class Decoding(NamedTuple):
    """Between two steps: `tokens_BxS[:, :step]` are drawn, all but the last are in the memory.

    The memory is keys and values, each (layers, B, G, E, P + S): prompts, padded on the right to
    P tokens, and then what was drawn, so that all rows write at one place.
    """

    step: Int[Array, ""]
    tokens_BxS: Int[Array, "B S"]
    done_B: Bool[Array, "B"]
    memory: _Pair


def generate(
    model: LanguageModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float | int = 0.0,
    top_k: int | None = None,
    top_p: float | int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    stop_at_eos: bool = True,
    on_progress: OnProgress | None = None,
) -> list[str]:
    """The continuations of prompts, without the prompts and without special tokens.

    A prompt's tokens are what the model's tokenizer gives with its own defaults. A continuation
    is the text of prompt and new tokens less the text of the prompt, so that a space between the
    two and characters of several tokens come out right; a character that the last token leaves
    unfinished is U+FFFD.

    Args:
        model: as `fisher_jax.models.load.load_model` gives it.
        prompts: texts, none of them without tokens.
        max_new_tokens: tokens of a continuation; prompt and continuation must fit the context.
        temperature: divides the logits that tokens are drawn by; 0 takes the likeliest token.
        top_k: see `generate_ids`, also for the other arguments.
        top_p: draw from the likeliest tokens that have this probability together.
        seed: of the draws.
        batch_size: most rows decoded together; default the device's, see `generate_ids`.
        stop_at_eos: end a row where the tokenizer's end-of-text token comes, if it has one.
        on_progress: called with the number of tokens done.

    Raises:
        ValueError: a prompt without tokens or too long, or an argument out of range.
    """
    if isinstance(prompts, str):
        raise UserError("prompts must be a list of strings, got one string: put it into a list")
    other = next((i for i, prompt in enumerate(prompts) if not isinstance(prompt, str)), None)
    if other is not None:
        kind = type(prompts[other]).__name__
        raise UserError(f"prompts must be strings, prompts[{other}] is of type {kind}")
    tokenizer: Any = model.tokenizer
    ids = tokenizer(list(prompts))["input_ids"] if len(prompts) else []
    continuations = generate_ids(
        model.module,
        ids,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        batch_size=batch_size,
        eos=tokenizer.eos_token_id if stop_at_eos else None,
        on_progress=on_progress,
    )
    return [
        continuation_text(tokenizer, prompt, continuation.tolist())
        for prompt, continuation in zip(ids, continuations, strict=True)
    ]


def generate_ids(
    module: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float | int = 0.0,
    top_k: int | None = None,
    top_p: float | int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    eos: int | None = None,
    on_progress: OnProgress | None = None,
) -> list[Int[np.ndarray, "M"]]:
    """The continuations of prompts as token ids, an `eos` that ended one included.

    A row's tokens depend on its prompt, its index and the seed, not on the rows beside it.

    Args:
        module: the model.
        prompts: token ids, at least one a prompt.
        max_new_tokens: tokens of a continuation; prompt and continuation must fit the context.
        temperature: tokens are drawn from softmax(logits / temperature); 0 takes the likeliest
            token, of equal ones the lowest id, and leaves top_k, top_p and seed without effect.
        top_k: draw from the k likeliest tokens only.
        top_p: draw from the nucleus only, the fewest likeliest tokens whose probability reaches
            p; where top_k is given too, its tokens' probabilities count.
        seed: of the draws; each row and step has its own key.
        batch_size: most rows decoded together; they are cut into equal batches of alike lengths.
            Default the device's `decoded_rows` in `fisher_jax.util.platforms`; fewer where they
            would take an eighth of the device's memory.
        eos: the token id that ends a row, None ends none.
        on_progress: called with the number of tokens done, of len(prompts) * max_new_tokens; a
            row that has ended counts in full.

    Raises:
        ValueError: a prompt that is empty, too long or not of the vocabulary, or an argument out
            of range.
    """
    sampling = Sampling(temperature, top_k, top_p)
    if batch_size is None:
        batch_size = here().decoded_rows
    _check_arguments(sampling, max_new_tokens, batch_size, seed)
    _check_prompts(prompts, max_new_tokens, module.config)
    if len(prompts) == 0:
        return []
    room = _rounded(max_new_tokens, module.config.context)
    longest = _rounded(max(map(len, prompts)), module.config.context)
    n_batches = -(-len(prompts) // within_memory(batch_size, _row_bytes(module, longest, room)))
    size = -(-len(prompts) // n_batches)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    graph, weights = nnx.split(module)
    end = -1 if eos is None else eos
    continuations: dict[int, np.ndarray] = {}
    for begin in range(0, len(prompts), size):
        rows = order[begin : begin + size]
        batch = _as_batch(prompts, rows, size, seed, module.config.context)
        decoding = _read(graph, weights, batch, end, sampling, room)
        step = 0
        while step < max_new_tokens:
            until = max_new_tokens if on_progress is None else step + STEPS_A_REPORT
            until = min(until, max_new_tokens)
            decoding = _decode(graph, weights, batch, end, sampling, decoding, until)
            step = max_new_tokens if bool(decoding.done_B.all()) else until
            if on_progress is not None:
                on_progress(begin * max_new_tokens + len(rows) * step)
        tokens_BxS = np.asarray(decoding.tokens_BxS)[:, :max_new_tokens]
        for i, tokens in zip(rows, tokens_BxS, strict=False):
            ends = np.flatnonzero(tokens == end)
            continuations[i] = tokens[: ends[0] + 1] if len(ends) else tokens
    return [continuations[i] for i in range(len(prompts))]


def continuation_text(tokenizer: Any, prompt: Sequence[int], continuation: Sequence[int]) -> str:
    """The text that a continuation adds to its prompt's, without special tokens.

    It is decoded with the prompt before it: alone it could lose a space at its beginning.
    """

    def decode(ids: Sequence[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    whole, known = decode([*prompt, *continuation]), decode(prompt)
    return whole[len(known) :] if whole.startswith(known) else decode(continuation)


def draw_token(
    key: Key[Array, ""], logits_L: Float[Array, "L"], sampling: Sampling
) -> Int[Array, ""]:
    """A token of one row: the likeliest, or one drawn as `generate_ids` describes it."""
    if sampling.temperature == 0:
        return jnp.argmax(logits_L).astype(jnp.int32)
    logits_L = (logits_L - logits_L.max()) / max(sampling.temperature, 1e-30)
    ids = jnp.arange(len(logits_L), dtype=jnp.int32)
    if sampling.top_k is not None:
        logits_L, ids = jax.lax.top_k(logits_L, min(sampling.top_k, len(logits_L)))
    if sampling.top_p is not None:
        p_L = jax.nn.softmax(logits_L)
        logits_L = jnp.where(p_L >= nucleus_edge(p_L, sampling.top_p), logits_L, -jnp.inf)
    return ids[jax.random.categorical(key, logits_L)]


def nucleus_edge(p_L: Float[Array, "L"], top_p: float | int) -> Float[Array, ""]:
    """The smallest probability in the nucleus: the largest e with `sum p[p >= e] >= top_p`.

    Found by bisection over the bits of a float32, which are ordered as the numbers from 0 to 1
    are; sorting a vocabulary would take ten times as long.
    """
    p_L = p_L.astype(jnp.float32)
    bits_L = jax.lax.bitcast_convert_type(p_L, jnp.int32)

    def halve(_: ArrayLike, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) // 2
        reached = jnp.where(bits_L >= middle, p_L, 0).sum() >= top_p
        return jnp.where(reached, middle, low), jnp.where(reached, high, middle)

    above_1 = jax.lax.bitcast_convert_type(jnp.float32(1), jnp.int32) + 1
    low, _ = jax.lax.fori_loop(0, 31, halve, (jnp.zeros_like(above_1), above_1))
    return jax.lax.bitcast_convert_type(low, jnp.float32)


class _Batch(NamedTuple):
    """Prompts padded on the right, their lengths and keys; at the end rows that are none."""

    ids_BxP: Array
    lengths_B: Array
    is_row_B: Array
    key_B: Array


def _as_batch(
    prompts: Sequence[Sequence[int]], rows: list[int], size: int, seed: int, context: int
) -> _Batch:
    lengths_B = np.ones(size, np.int32)
    lengths_B[: len(rows)] = [len(prompts[i]) for i in rows]
    ids_BxP = np.zeros((size, _rounded(int(lengths_B.max()), context)), np.int32)
    for ids_P, i in zip(ids_BxP, rows, strict=False):
        ids_P[: len(prompts[i])] = prompts[i]
    key_B = _row_keys(jax.random.key(seed), np.resize(rows, size).astype(np.uint32))
    is_row_B = np.arange(size) < len(rows)
    return _Batch(jnp.asarray(ids_BxP), jnp.asarray(lengths_B), jnp.asarray(is_row_B), key_B)


def _row_bytes(module: Decoder, prompt: int, room: int) -> float:
    """Bytes that decoding takes a row: its memory, and the pass that reads its prompt.

    A slot of the memory has the keys and values of every layer, here as if none were shared.
    """
    config = module.config
    of_slot = 2 * config.n_layers * config.dim * jnp.dtype(module.head.dtype).itemsize
    return of_slot * (prompt + room) + prompt * activation_bytes(config, prompt)


_row_keys = jax.jit(jax.vmap(jax.random.fold_in, in_axes=(None, 0)))


@functools.partial(jax.jit, static_argnames=("graph", "sampling", "room"))
def _read(
    graph: Any, weights: Any, batch: _Batch, end: ArrayLike, sampling: Sampling, room: int
) -> Decoding:
    """All prompts in one pass, and the first tokens."""
    module = nnx.merge(graph, weights)

    def roomy(x_BxPxGxE: Array) -> Array:
        return jnp.pad(x_BxPxGxE.transpose(0, 2, 3, 1), ((0, 0), (0, 0), (0, 0), (0, room)))

    def attend(q: Array, k: Array, v: Array, memory: None, limits: Limits) -> tuple[Array, _Pair]:
        return causal_attention(q, k, v, limits), (roomy(k), roomy(v))

    size, length = batch.ids_BxP.shape
    x_BxPxD, memory = module.states(batch.ids_BxP, jnp.arange(length)[None], attend)
    last = (batch.lengths_B - 1)[:, None, None]
    x_BxD = jnp.take_along_axis(x_BxPxD, last, axis=1)[:, 0]
    no_tokens_BxS = jnp.zeros((size, room), jnp.int32)
    now = Decoding(jnp.zeros((), jnp.int32), no_tokens_BxS, ~batch.is_row_B, memory)
    return _with_token(now, module, x_BxD, batch, end, sampling)


@functools.partial(jax.jit, static_argnames=("graph", "sampling"))
def _decode(
    graph: Any,
    weights: Any,
    batch: _Batch,
    end: ArrayLike,
    sampling: Sampling,
    decoding: Decoding,
    until: ArrayLike,
) -> Decoding:
    """Token after token till each row has `until` of them or has ended."""
    module = nnx.merge(graph, weights)
    first = batch.ids_BxP.shape[1]  # slot of the first drawn token
    slot_C = jnp.arange(decoding.memory[0].shape[-1])
    in_prompt_BxC = slot_C[None] < batch.lengths_B[:, None]

    def goes_on(now: Decoding) -> Array:
        return (now.step < until) & ~now.done_B.all()

    def advance(now: Decoding) -> Decoding:
        slot = first + now.step - 1
        mask_BxC = in_prompt_BxC | ((slot_C >= first) & (slot_C <= slot))[None]
        drawn_BxC = slot_C[None] - first + batch.lengths_B[:, None]
        position_BxC = jnp.where(slot_C[None] < first, slot_C[None], drawn_BxC)
        back_BxC = (batch.lengths_B + now.step - 1)[:, None] - position_BxC

        def written(memory: _Pair, new: _Pair) -> _Pair:
            keys, values = (
                jax.lax.dynamic_update_slice_in_dim(old, x, slot, axis=old.ndim - 1)
                for old, x in zip(memory, new, strict=True)
            )
            return keys, values

        def attend(
            q: Array, k: Array, v: Array, memory: _Pair, limits: Limits
        ) -> tuple[Array, _Pair]:
            new = k.transpose(0, 2, 3, 1), v.transpose(0, 2, 3, 1)
            near_BxC = True if limits.window is None else back_BxC < limits.window
            return _attention(q, *written(memory, new), mask_BxC & near_BxC, limits.cap), new

        last_Bx1 = jax.lax.dynamic_slice_in_dim(now.tokens_BxS, now.step - 1, 1, axis=1)
        positions_Bx1 = (batch.lengths_B + now.step - 1)[:, None]
        x_Bx1xD, new = module.states(last_Bx1, positions_Bx1, attend, now.memory)
        now = now._replace(memory=written(now.memory, new))
        return _with_token(now, module, x_Bx1xD[:, 0], batch, end, sampling)

    return jax.lax.while_loop(goes_on, advance, decoding)


def _attention(
    q_Bx1xHxE: Array, k_BxGxExC: Array, v_BxGxExC: Array, mask_BxC: Array, cap: float | None
) -> Array:
    """softmax(capped(q k^T / sqrt(E))) v of one query a row over the slots in its mask."""
    size, _, n_heads, head_dim = q_Bx1xHxE.shape
    groups = k_BxGxExC.shape[1]
    q_BxGxRxE = q_Bx1xHxE.reshape(size, groups, n_heads // groups, head_dim)
    logits = jnp.einsum("bgre,bgec->bgrc", q_BxGxRxE, k_BxGxExC, preferred_element_type=jnp.float32)
    logits = capped(logits / math.sqrt(head_dim), cap)
    logits = jnp.where(mask_BxC[:, None, None], logits, -jnp.inf)
    p_BxGxRxC = jax.nn.softmax(logits).astype(v_BxGxExC.dtype)
    return jnp.einsum("bgrc,bgec->bgre", p_BxGxRxC, v_BxGxExC).reshape(q_Bx1xHxE.shape)


def _with_token(
    now: Decoding, module: Decoder, x_BxD: Array, batch: _Batch, end: ArrayLike, sampling: Sampling
) -> Decoding:
    """The next token of every row, from its last hidden state."""
    logits_BxL = jnp.matmul(
        x_BxD, module.head.T, precision="highest", preferred_element_type=jnp.float32
    )
    logits_BxL = capped(logits_BxL, module.logit_cap)
    key_B = jax.vmap(jax.random.fold_in, in_axes=(0, None))(batch.key_B, now.step)
    draw = functools.partial(draw_token, sampling=sampling)
    token_B = jax.vmap(draw)(key_B, logits_BxL)
    return Decoding(
        now.step + 1,
        jax.lax.dynamic_update_slice_in_dim(now.tokens_BxS, token_B[:, None], now.step, axis=1),
        now.done_B | (token_B == end),
        now.memory,
    )


def _rounded(n_tokens: int, most: int) -> int:
    """The next power of two, so that few programs are compiled, but at most `most`."""
    return min(max(SHORTEST, 1 << (n_tokens - 1).bit_length()), most)


def _check_arguments(sampling: Sampling, max_new_tokens: int, batch_size: int, seed: int) -> None:
    temperature, top_k, top_p = sampling
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise UserError(
            f"temperature must be 0 (the likeliest token) or positive, got {temperature}"
        )
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k must be at least 1, or None for all tokens, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p must be above 0 and at most 1, or None, got {top_p}")
    check_seed(seed)
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")


def _check_prompts(prompts: Sequence[Sequence[int]], max_new_tokens: int, config: Sizes) -> None:
    for i, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise UserError(f"prompts[{i}] has no tokens: leave it out, or begin it with one")
        if len(prompt) + max_new_tokens > config.context:
            raise UserError(
                f"prompts[{i}] has {len(prompt)} tokens, with max_new_tokens={max_new_tokens} more "
                f"than the model's context of {config.context}: shorten it or ask for fewer tokens"
            )
        if min(prompt) < 0 or max(prompt) >= config.vocab:
            raise UserError(
                f"prompts[{i}] has a token id outside 0 to {config.vocab - 1}, the model's "
                "vocabulary: use the model's own tokenizer"
            )
