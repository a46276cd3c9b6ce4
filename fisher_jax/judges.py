"""Judges in JAX: a language model that is asked, and one that only reads."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from fisher_jax.buckets import ladder
from fisher_jax.data import PromptCompletion
from fisher_jax.embed import LENGTH_STEP, MAX_BUCKETS, tokenize
from fisher_jax.judge import Answer, JudgeError, OnProgress, Question
from fisher_jax.linalg import HIGHEST
from fisher_jax.models.gpt2 import GPT2
from fisher_jax.models.llama import Llama
from fisher_jax.models.load import LanguageModel

BLOCK = 256  # positions whose logits are in memory at once


@dataclass(frozen=True)
class LocalJudge:
    """A language model asked for its next token after the judge prompt: P("2") against P("1").

    `P(2) = 1 / (1 + exp(logit_1 - logit_2))`, and the choice is 2 where it exceeds one half, else
    1. Nothing is generated. The prompt goes through the tokenizer's chat template where there is
    one, else a new line is put after it.

    Attributes:
        model: the judge.
        batch_tokens: tokens of a forward pass, padding included.
    """

    model: LanguageModel
    batch_tokens: int = 4096

    def answer(
        self, questions: Sequence[Question], on_progress: OnProgress | None = None
    ) -> list[Answer]:
        """An answer to each question, with its probability.

        Raises:
            JudgeError: a question longer than the model's context, or a tokenizer without tokens
                for the two digits.
            ValueError: batch_tokens below 1.
        """
        digits = jnp.asarray([_digit(self.model, digit) for digit in "12"])
        ids = self.tokenize([question.text for question in questions])
        probability_N = np.empty(len(ids))
        done = 0
        for members, ids_BxT in _batches(ids, self.model.context, self.batch_tokens):
            last_B = np.zeros(len(ids_BxT), np.int32)
            last_B[: len(members)] = [len(ids[i]) - 1 for i in members]
            batch = jnp.asarray(ids_BxT), jnp.asarray(last_B)
            logits_Bx2 = np.asarray(_last_logits(self.model.module, *batch, digits))
            difference = logits_Bx2[: len(members)] @ [-1.0, 1.0]
            probability_N[members] = 0.5 * (1 + np.tanh(difference / 2))
            done += len(members)
            if on_progress is not None:
                on_progress(done)
        choices = [2 if p > 0.5 else 1 for p in probability_N]
        return [
            Answer(str(choice), choice, float(p))
            for choice, p in zip(choices, probability_N, strict=True)
        ]

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of judge prompts, all that comes before the answer.

        Raises:
            JudgeError: a prompt longer than the model's context.
        """
        tokenizer = self.model.tokenizer
        template = getattr(tokenizer, "chat_template", None)
        whole = [_as_chat(tokenizer, text) if template else text + "\n" for text in texts]
        # a template brings its own special tokens
        ids = tokenizer(whole, add_special_tokens=not template)["input_ids"] if whole else []
        for i, row in enumerate(ids):
            if len(row) > self.model.context:
                raise JudgeError(
                    f"question {i} has {len(row)} tokens, the context of {self.model.name} is "
                    f"{self.model.context}: shorten the texts or take another judge"
                )
        return ids


@dataclass(frozen=True)
class LikelihoodJudge:
    """A reference model that prefers the continuation it finds more likely.

    The score is `mean_log_likelihoods`. Texts are scored one by one and never shown side by side,
    so there is no order, position bias is nil by construction, and tags and corpus don't matter.
    Ties are equal scores only, as of equal texts.

    Attributes:
        model: the reference.
        batch_tokens: tokens of a forward pass, padding included.
    """

    model: LanguageModel
    batch_tokens: int = 4096

    def answer(
        self, questions: Sequence[Question], on_progress: OnProgress | None = None
    ) -> list[Answer]:
        """An answer to each question; its words are the two scores.

        Raises:
            ValueError: see `mean_log_likelihoods`.
        """
        rows = [PromptCompletion(q.prompt, text) for q in questions for text in q.continuations]
        unique = list(dict.fromkeys(rows))  # each text once, whatever the order it is shown in

        def report(done: int) -> None:
            if on_progress is not None:
                on_progress(len(questions) * done // len(unique))

        scores = mean_log_likelihoods(self.model, unique, self.batch_tokens, report)
        score = dict(zip(unique, scores.tolist(), strict=True))
        answers = []
        for first, second in zip(rows[::2], rows[1::2], strict=True):
            one, two = score[first], score[second]
            answers.append(Answer(f"{one:.4f} {two:.4f}", 2 if two > one else 1))
        return answers


def mean_log_likelihoods(
    model: LanguageModel,
    rows: Sequence[PromptCompletion],
    batch_tokens: int = 4096,
    on_progress: OnProgress | None = None,
) -> Float[np.ndarray, "N"]:
    """`(1 / M) sum_j log p(y_j | prompt, y_<j)` over the completion's M tokens, in nats.

    Prompt and completion are tokenised apart and joined, as for embeddings. A completion without
    tokens to predict has minus infinity: it loses to any other.

    Raises:
        JudgeError: a row longer than the model's context.
        ValueError: batch_tokens below 1.
    """
    tokenized = tokenize(model, rows)
    if tokenized.n_cut:
        i = next(i for i, row in enumerate(rows) if tokenize(model, [row]).n_cut)
        raise JudgeError(
            f"text {i} ({rows[i].prompt[:40]!r}...) is longer than {model.context} tokens, the "
            f"context of {model.name}: shorten the texts or take another judge"
        )
    fed = [ids[:-1] for ids in tokenized.ids]
    score_N = np.full(len(rows), -math.inf)
    done = 0
    for members, ids_BxT in _batches(fed, model.context, batch_tokens):
        next_BxT = np.zeros_like(ids_BxT)
        for slot, i in enumerate(members):
            next_BxT[slot, : len(fed[i])] = tokenized.ids[i][1:]
        batch = jnp.asarray(ids_BxT), jnp.asarray(next_BxT)
        log_BxT = np.asarray(_log_likelihoods(model.module, *batch))
        for slot, i in enumerate(members):
            counted = log_BxT[slot, tokenized.first[i] - 1 : len(fed[i])]
            if len(counted):
                score_N[i] = counted.mean(dtype=np.float64)
        done += len(members)
        if on_progress is not None:
            on_progress(done)
    return score_N


def _batches(
    ids: Sequence[Sequence[int] | np.ndarray], context: int, batch_tokens: int
) -> Iterator[tuple[np.ndarray, Int[np.ndarray, "B T"]]]:
    """Rows by length bucket, padded on the right: their numbers, and their ids.

    The last batch of a bucket may have empty rows at its end. Rows without tokens are left out.
    """
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens must be at least 1, got {batch_tokens}")
    lengths = np.asarray([len(row) for row in ids], np.int64)
    if not lengths.any():
        return
    steps = np.minimum(ladder(lengths[lengths > 0], MAX_BUCKETS, LENGTH_STEP), context)
    for length, lower in zip(steps, [0, *steps[:-1]], strict=True):
        (members,) = np.nonzero((lengths > lower) & (lengths <= length))
        n_batches = -(-len(members) // max(1, batch_tokens // int(length)))
        batch = -(-len(members) // n_batches)  # equal batches: one shape, little padding
        for begin in range(0, len(members), batch):
            chosen = members[begin : begin + batch]
            ids_BxT = np.zeros((batch, length), np.int32)
            for slot, i in enumerate(chosen):
                ids_BxT[slot, : lengths[i]] = ids[i]
            yield chosen, ids_BxT


@nnx.jit
def _last_logits(module: Llama | GPT2, ids_BxT: Array, last_B: Array, labels_K: Array) -> Array:
    """(B, K) logits of a few labels after each row's last token."""
    hidden_BxTxD = module(ids_BxT)
    last_BxD = jnp.take_along_axis(hidden_BxTxD, last_B[:, None, None], axis=1)[:, 0]
    return jnp.matmul(last_BxD, module.head[labels_K].T, precision=HIGHEST).astype(jnp.float32)


@nnx.jit
def _log_likelihoods(module: Llama | GPT2, ids_BxT: Array, next_BxT: Array) -> Array:
    """(B, T) `theta_y x - logsumexp(theta x)`, a block of positions at a time."""
    hidden_BxTxD, head_LxD = module(ids_BxT), module.head

    def log_likelihood(of_position: tuple[Array, Array]) -> Array:
        x_D, y = of_position
        logits_L = jnp.matmul(head_LxD, x_D, precision=HIGHEST).astype(jnp.float32)
        return logits_L[y] - jax.nn.logsumexp(logits_L)

    flat = hidden_BxTxD.reshape(-1, hidden_BxTxD.shape[-1]), next_BxT.reshape(-1)
    return jax.lax.map(log_likelihood, flat, batch_size=BLOCK).reshape(ids_BxT.shape)


def _digit(model: LanguageModel, digit: str) -> int:
    ids = model.tokenizer(digit, add_special_tokens=False)["input_ids"]
    if not ids or model.tokenizer.decode(ids[-1:]).strip() != digit:  # pyright: ignore
        raise JudgeError(
            f"the tokenizer of {model.name} has no token for {digit!r}, which the judge must "
            "answer with: take another model"
        )
    return ids[-1]


def _as_chat(tokenizer, text: str) -> str:
    message = {"role": "user", "content": text}
    return tokenizer.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
