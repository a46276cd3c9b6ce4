"""Judges: a language model that is asked, one that only reads, and one behind an endpoint."""

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from experiments.judging.judge import Answer, JudgeError, Question, parse_answer
from fisher_jax.data import Example
from fisher_jax.models import LanguageModel, capped, forward, last_states, tokenize
from fisher_jax.scoring import Endpoint, labels_of, row_means, token_scores
from fisher_jax.util.progress import OnProgress


@dataclass(frozen=True)
class LocalJudge:
    """A language model asked for its next token after the judge prompt: P("2") against P("1").

    `P(2) = 1 / (1 + exp(logit_1 - logit_2))`, and the choice is 2 where it exceeds one half, else
    1. Nothing is generated. The prompt goes through the tokenizer's chat template where there is
    one, else a new line is put after it.

    Attributes:
        model: the judge.
        batch_tokens: of a forward pass, see `fisher_jax.models.embed.forward`.
    """

    model: LanguageModel
    batch_tokens: int | None = None

    def answer(
        self, questions: Sequence[Question], on_progress: OnProgress | None = None
    ) -> list[Answer]:
        """An answer to each question, with its probability.

        Raises:
            JudgeError: a question longer than the model's context, or a tokenizer without tokens
                for the two digits.
            ValueError: batch_tokens below 1.
        """
        digits = np.asarray([_digit(self.model, digit) for digit in "12"])
        ids = self.tokenize([question.text for question in questions])
        if not ids:
            return []
        last_NxD = last_states(self.model, ids, self.batch_tokens, on_progress)
        module = self.model.module
        digits_2xD = np.asarray(module.head[digits], np.float64)
        if module.logit_cap is None:
            difference_N = last_NxD @ (digits_2xD[1] - digits_2xD[0])
        else:
            logits_Nx2 = np.asarray(capped(jnp.asarray(last_NxD @ digits_2xD.T), module.logit_cap))
            difference_N = logits_Nx2[:, 1] - logits_Nx2[:, 0]
        probability_N = 0.5 * (1 + np.tanh(difference_N / 2))
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
        model, chats = self.model, self.model.chats
        whole = [model.as_chat(text) if chats else text + "\n" for text in texts]
        ids = model.tokenizer(whole, add_special_tokens=not chats)["input_ids"] if whole else []
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
        batch_tokens: of a forward pass, see `fisher_jax.models.embed.forward`.
    """

    model: LanguageModel
    batch_tokens: int | None = None

    def answer(
        self, questions: Sequence[Question], on_progress: OnProgress | None = None
    ) -> list[Answer]:
        """An answer to each question; its words are the two scores.

        Raises:
            ValueError: see `mean_log_likelihoods`.
        """
        rows = [Example(text, q.prompt) for q in questions for text in q.continuations]
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
    rows: Sequence[Example],
    batch_tokens: int | None = None,
    on_progress: OnProgress | None = None,
) -> Float[np.ndarray, "N"]:
    """`(1 / M) sum_j log p(y_j | prompt, y_<j)` over the completion's M tokens, in nats.

    Prompt and completion have the tokens of the joint text, without an end. A completion without
    tokens to predict has minus infinity: it loses to any other.

    Raises:
        JudgeError: a row longer than the model's context.
        ValueError: batch_tokens below 1.
    """
    tokenized = tokenize(model, rows, eos=False)
    if tokenized.cut.any():
        i = int(np.argmax(tokenized.cut))
        raise JudgeError(
            f"text {i} ({str(rows[i].prompt)[:40]!r}...) is longer than {model.context} tokens, "
            f"the context of {model.name}: shorten the texts or take another judge"
        )
    score_N = np.full(len(rows), -math.inf)
    (scored,) = np.nonzero(tokenized.counted)
    if len(scored):
        counting = tokenized.take(scored)
        states_TxD = forward(model, counting, batch_tokens, on_progress)
        module, labels_T = model.module, labels_of(counting)
        tokens = token_scores(module.head, states_TxD, labels_T, cap=module.logit_cap)
        score_N[scored] = -row_means(tokens.nll_T, counting.offsets)
    return score_N


def _digit(model: LanguageModel, digit: str) -> int:
    tokenizer: Any = model.tokenizer
    ids = tokenizer(digit, add_special_tokens=False)["input_ids"]
    if not ids or tokenizer.decode(ids[-1:]).strip() != digit:
        raise JudgeError(
            f"the tokenizer of {model.name} has no token for {digit!r}, which the judge must "
            "answer with: take another model"
        )
    return ids[-1]


class EndpointJudge(Endpoint):
    """An endpoint's chat model as a judge."""

    def answer(
        self, questions: Sequence[Question], on_progress: OnProgress | None = None
    ) -> list[Answer]:
        """An answer to each question, from the transcript where it has one.

        One that was cut at the limit of tokens chooses nothing.

        Raises:
            EndpointError: as `records`.
        """
        answers: list[Answer] = []
        with closing(self.records([question.text for question in questions])) as records:
            for record in records:
                raw, is_cut = record["answer"], record.get("finish_reason") == "length"
                answers.append(Answer(raw, None if is_cut else parse_answer(raw)))
                if on_progress is not None:
                    on_progress(len(answers))
        return answers
