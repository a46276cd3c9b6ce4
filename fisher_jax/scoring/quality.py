"""Scores of a whole row that take a model's answer or a second reading: Ask-LLM and IFD."""

import functools
from collections.abc import Sequence
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fisher_jax.data import Example, examples_of
from fisher_jax.models import LanguageModel, TokenizedRows, forward, last_states, tokenize
from fisher_jax.scoring.endpoint import Endpoint, EndpointError
from fisher_jax.scoring.scores import by_chunks, labels_of, logits, row_means, token_scores
from fisher_jax.util.errors import UserError
from fisher_jax.util.progress import OnProgress

ASK_SETTINGS = {"temperature": 0, "max_tokens": 1, "logprobs": True, "top_logprobs": 20}
YES_WORDS = ("yes", "Yes", " yes", " Yes")
ASK_LLM_PROMPT = """###
{text}
###

Does the previous paragraph demarcated within ### and ### contain informative signal for \
pre-training a large-language model? An informative datapoint should be well-formatted, contain \
some usable knowledge of the world, and strictly NOT have any harmful, racist, sexist, etc. content.

OPTIONS:
- yes
- no"""


def ask_llm(
    model: LanguageModel,
    rows: Sequence[str | Example],
    yes_words: Sequence[str] = YES_WORDS,
    *,
    prompt: str = ASK_LLM_PROMPT,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    on_progress: OnProgress | None = None,
) -> Float[np.ndarray, "N"]:
    """Ask-LLM's quality: the probability of "yes" as the next token (arXiv 2402.09668).

    The question is put through the tokenizer's chat template if it has one, as the user's only
    message; else the prompt is continued as it stands. What is asked about is a row's text, or
    its prompt and completion joined. The text and what stands around it are tokenised apart, and
    the text is cut where the whole would be too long: the question stays whole.

    P(yes) is the sum over the tokens of `yes_ids`: for SmolLM2 the four words "yes", "Yes",
    " yes", " Yes". It is not divided by P(yes) + P(no).

    Args:
        yes_words: words that count; those of more than one token do not.
        prompt: holds `{text}` once.
        max_length: tokens of the whole question; default the model's context.
        batch_tokens: of a forward pass, see `fisher_jax.models.embed.forward`.
        on_progress: called with the number of rows done.

    Raises:
        ValueError: no rows, no yes-word that is one token, a prompt without `{text}`, a
            max_length that leaves no room for a text or that the model can't take.
    """
    if len(rows) == 0:
        raise UserError("rows is empty: there is nothing to ask about")
    yes = yes_ids(model, yes_words)
    before, after = _around_text(model, prompt)
    limit = model.context if max_length is None else max_length
    room = limit - len(before) - len(after)
    if room < 1 or limit > model.context:
        raise UserError(
            f"max_length must be from {limit - room + 1}, the question's tokens and one of the "
            f"text, to {model.context}, the context of {model.name}, got {limit}"
        )
    encoded = model.tokenizer(_texts(rows), add_special_tokens=False)["input_ids"]
    ids = [before + text[:room] + after for text in encoded]
    states_NxD = last_states(model, ids, batch_tokens, on_progress)
    of_yes = functools.partial(_probability, ids=jnp.asarray(yes), cap=model.module.logit_cap)
    return by_chunks(of_yes, model.module.head, (states_NxD,), 64)[0].astype(np.float64)


def ask_llm_endpoint(
    endpoint: Endpoint,
    rows: Sequence[str | Example],
    yes_words: Sequence[str] = YES_WORDS,
    *,
    prompt: str = ASK_LLM_PROMPT,
    on_progress: OnProgress | None = None,
) -> Float[np.ndarray, "N"]:
    """`ask_llm` by a chat model behind an endpoint: P("yes") as the first token of its answer.

    The sum over those of `yes_words` that are among the likeliest first tokens which it tells, as
    many as the settings' `top_logprobs` asks for; others count as 0. Texts are sent whole: one
    that is too long for the endpoint is an error.

    Args:
        endpoint: with settings like `ASK_SETTINGS`; its transcript keeps what was answered.
        yes_words, prompt, on_progress: as `ask_llm`.

    Raises:
        ValueError: no rows, or a prompt without `{text}`.
        EndpointError: as `Endpoint.records`, or an answer without log-probabilities.
    """
    if len(rows) == 0:
        raise UserError("rows is empty: there is nothing to ask about")
    quality = np.zeros(len(rows))
    with closing(endpoint.records(ask_questions(rows, prompt))) as records:
        for i, record in enumerate(records):
            if not record.get("top"):
                raise EndpointError(
                    f"{endpoint.base_url}, model {endpoint.model} tells no log-probabilities "
                    f"of its answer about row {i}, from 0, kept in {endpoint.transcript}: if of no "
                    "row, take a model that does; else leave the row out, or ask again"
                )
            top = record["top"]
            quality[i] = sum(np.exp(top[word]) for word in {*yes_words} & {*top})
            if on_progress is not None:
                on_progress(i + 1)
    return quality


def ask_questions(rows: Sequence[str | Example], prompt: str = ASK_LLM_PROMPT) -> list[str]:
    """What Ask-LLM asks about each row.

    Raises:
        ValueError: a prompt without `{text}`.
    """
    _check_prompt(prompt)
    return [prompt.replace("{text}", text) for text in _texts(rows)]


def yes_ids(model: LanguageModel, words: Sequence[str] = YES_WORDS) -> Int[np.ndarray, "Y"]:
    """Ids of the words that are one token of the model, ascending and each once.

    Raises:
        ValueError: none of the words is.
    """
    encoded = [model.tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    single = sorted({ids[0] for ids in encoded if len(ids) == 1})
    if not single:
        raise UserError(f"none of yes_words {list(words)} is a single token of {model.name}")
    return np.asarray(single, np.int32)


def ifd(
    model: LanguageModel,
    rows: Sequence[str | Example],
    *,
    max_length: int | None = None,
    eos: bool | None = None,
    batch_tokens: int | None = None,
    on_progress: OnProgress | None = None,
) -> Float[np.ndarray, "N"]:
    """Instruction-following difficulty: how little the prompt helps (Cherry, arXiv 2308.12032).

    `mean NLL(completion | prompt) / mean NLL(completion alone)`, a ratio of mean losses and not
    of perplexities; above 0, and above 1 where the prompt misleads. Both means are over the same
    tokens. Alone, a completion begins with the tokenizer's own special tokens; where there are
    none, nothing predicts its first token, which then counts in neither mean.

    Args:
        max_length: tokens a row may have, longer ones are cut; default the model's context.
        eos: whether the end of a row counts, as `models.tokenize` has it.
        on_progress: called with the number of rows done, from 0 to N twice.

    Raises:
        ValueError: no rows, a row without a prompt, or one whose completion has nothing to
            predict.
    """
    if len(rows) == 0:
        raise UserError("rows is empty: there is nothing to compare")
    for i, row in enumerate(examples_of(rows)):
        if not (row.prompt or (row.is_chat and row.has_prompt)):
            raise UserError(
                f"row {i} has no prompt: IFD compares a completion with and without its prompt, "
                "it is for prompt + completion rows"
            )
    given = tokenize(model, rows, max_length, eos=eos)
    alone = completions_alone(model, given)
    empty = np.flatnonzero(alone.counted == 0)
    if len(empty):
        raise UserError(
            f"row {empty[0]} has nothing to predict in its completion: leave it out, "
            "or raise max_length"
        )
    late = [learnt & (np.cumsum(learnt) > 1) for learnt in given.learnt]
    if not np.array_equal(given.counted, alone.counted):  # nothing predicts the first one alone
        given = given._replace(learnt=late)
    offsets = alone.offsets
    with_prompt, without = (
        row_means(_losses(model, tokenized, batch_tokens, on_progress), offsets)
        for tokenized in (given, alone)
    )
    return with_prompt / np.maximum(without, np.finfo(np.float32).tiny)


def completions_alone(model: LanguageModel, given: TokenizedRows) -> TokenizedRows:
    """Rows without their prompts: special tokens and the completion, as IFD compares them."""
    opening = np.asarray(model.tokenizer("", add_special_tokens=True)["input_ids"], np.int32)
    ids = [np.concatenate([opening, labels]) for labels in given.labels]
    return TokenizedRows.after(ids, max(1, len(opening)))._replace(cut=given.cut)


def _losses(
    model: LanguageModel,
    rows: TokenizedRows,
    batch_tokens: int | None,
    on_progress: OnProgress | None,
) -> np.ndarray:
    states_TxD = forward(model, rows, batch_tokens, on_progress)
    module = model.module
    return token_scores(module.head, states_TxD, labels_of(rows), cap=module.logit_cap).nll_T


def _texts(rows: Sequence[str | Example]) -> list[str]:
    return [
        row.text(system=False) if row.is_chat else f"{row.prompt or ''}{row.completion}"
        for row in examples_of(rows)
    ]


def _check_prompt(prompt: str) -> None:
    if prompt.count("{text}") != 1:
        raise UserError(f"prompt must hold {{text}} once, it does {prompt.count('{text}')} times")


def _around_text(model: LanguageModel, prompt: str) -> tuple[list[int], list[int]]:
    """Token ids of what stands before and after the text in a question."""
    _check_prompt(prompt)
    before, _, after = (model.as_chat(prompt) if model.chats else prompt).partition("{text}")
    return (
        model.tokenizer(before, add_special_tokens=not model.chats)["input_ids"],
        model.tokenizer(after, add_special_tokens=False)["input_ids"],
    )


@functools.partial(jax.jit, static_argnames=("cap",))
def _probability(
    head_LxD: Array, hidden_CxD: Array, *, ids: Int[Array, "Y"], cap: float | None
) -> tuple[Array]:
    log_p_CxL = jax.nn.log_softmax(logits(head_LxD, hidden_CxD, cap))
    return (jnp.sum(jnp.exp(log_p_CxL[:, ids]), axis=1),)
