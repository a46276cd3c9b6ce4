"""Rows of messages as the text that a model's chat template makes of them."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from fisher_jax.data import Chat, PoolError, PromptCompletion, Row
from fisher_jax.models.assemble import ModelError
from fisher_jax.models.load import LanguageModel


def written(
    model: LanguageModel, rows: Sequence[Row | Chat], where: Callable[[int], str]
) -> list[Row]:
    """The rows with every chat as text, or as prompt and completion if it has one.

    As TRL reads its conversational formats: all tokens of `messages` are learnt, of a prompt and a
    completion only the completion, which begins where the template starts an answer. Where the
    tokenizer adds a token that begins a text, the template's own is left out.

    Args:
        model: whose template it is.
        rows: chats and others, which stay as they are.
        where: row i as a person would look for it.

    Raises:
        PoolError: the model has no template, or it refuses a row.
    """
    begins = _begins_with(model)
    return [_row(model, row, begins, where(i)) for i, row in enumerate(rows)]


def _row(model: LanguageModel, row: Row | Chat, begins: str, where: str) -> Row:
    if not isinstance(row, Chat):
        return row
    if not model.chats:
        raise PoolError(
            f"{where} is a chat, and {model.name} has no chat template: name a model that has one, "
            "or write the rows as text"
        )
    try:
        whole = model.render([*row.prompt, *row.completion]).removeprefix(begins)
        if not row.completion:
            return whole
        asked = model.render(row.prompt, row.prompt[-1]["role"] != "assistant")
    except ModelError as error:
        raise PoolError(f"{where}: {error}, or mend or remove the row") from None
    pairs = zip(asked.removeprefix(begins), whole, strict=False)
    # some templates write a message otherwise once another follows
    prompt = "".join(a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return PromptCompletion(prompt, whole[len(prompt) :])


def _begins_with(model: LanguageModel) -> str:
    """What the tokenizer puts before every text, if anything."""
    tokenizer: Any = model.tokenizer
    added = tokenizer("")["input_ids"][:1]
    return tokenizer.bos_token if added and added == [tokenizer.bos_token_id] else ""
