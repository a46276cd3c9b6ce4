"""Rows of messages as the text that a model's chat template makes of them."""

import itertools
from collections.abc import Callable, Sequence

from fisher_jax.data import Chat, PoolError, PromptCompletion, Row
from fisher_jax.models.errors import ModelError
from fisher_jax.models.load import LanguageModel


def written(
    model: LanguageModel, rows: Sequence[Row | Chat], where: Callable[[int], str]
) -> list[Row]:
    """The rows with every chat as text, or as prompt and completion if it has one.

    As TRL reads its conversational formats: all tokens of `messages` are learnt, of a prompt and a
    completion only the completion, which begins where the template starts an answer. The texts
    bring their own special tokens.

    Args:
        model: whose template it is.
        rows: chats and others, which stay as they are.
        where: row i as a person would look for it.

    Raises:
        PoolError: the model has no template, it refuses a row, or writes a prompt otherwise once
            it is answered.
    """
    return [_row(model, row, where(i)) for i, row in enumerate(rows)]


def _row(model: LanguageModel, row: Row | Chat, where: str) -> Row:
    if not isinstance(row, Chat):
        return row
    if not model.chats:
        raise PoolError(
            f"{where} is a chat, and {model.name} has no chat template: name a model that has one, "
            "or write the rows as text"
        )
    try:
        whole = model.render([*row.prompt, *row.completion])
        if not row.completion:
            return whole
        asked = model.render(row.prompt, row.prompt[-1]["role"] != "assistant")
    except ModelError as error:
        raise PoolError(f"{where}: {error}, or mend or remove the row") from None
    pairs = zip(asked, whole, strict=False)
    prompt = "".join(a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    if row.prompt[-1]["content"].strip() not in prompt:
        raise PoolError(
            f"{where}: the chat template of {model.name} writes the prompt otherwise once it is "
            "answered: write prompt and completion as strings"
        )
    return PromptCompletion(prompt, whole[len(prompt) :])
