"""Rows of a pool: texts, prompts with completions, chats."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from fisher_jax.util.errors import UserError


class PoolError(UserError):
    """A pool that can't be used; the message names file, line, reason and remedy."""


class PromptCompletion(NamedTuple):
    """A row of which only the completion is learnt."""

    prompt: str
    completion: str


Row = str | PromptCompletion


class Chat(NamedTuple):
    """A row of messages (`role`, `content`); with a completion, only that is learnt."""

    prompt: Sequence[dict[str, Any]]
    completion: Sequence[dict[str, Any]] = ()


def row_of(values: Sequence[Any], columns: Sequence[str], where: str) -> Row | Chat:
    """The row that the values of one column, or of two, make.

    Raises:
        PoolError: neither strings nor lists of messages.
    """
    if all(isinstance(value, list) for value in values):
        chats = zip(values, columns, strict=True)
        return Chat(*(_messages(value, f"{where}: column {column!r}") for value, column in chats))
    for value, column in zip(values, columns, strict=True):
        if not isinstance(value, str):
            got = "null" if value is None else f"a {type(value).__name__}"
            raise PoolError(
                f"{where}: column {column!r} holds {got}, not a string: mend or "
                "remove the row, or name another with --text-column"
            )
        _check_characters(value, f"{where}: column {column!r}")
    return values[0] if len(columns) == 1 else PromptCompletion(*values)


def _messages(value: list[Any], where: str) -> list[dict[str, Any]]:
    """A list of messages, without what Parquet fills in for fields that they lack."""
    for message in value:
        named = message if isinstance(message, dict) else {}
        for key in ("role", "content"):
            if not isinstance(named.get(key), str):
                raise PoolError(
                    f"{where} holds a message without a string {key!r}: a chat is a list of "
                    "objects with role and content; mend or remove the row"
                )
            _check_characters(named[key], where)
    if not value:
        raise PoolError(f"{where} holds no message: mend or remove the row")
    return [{k: v for k, v in message.items() if v is not None} for message in value]


def _check_characters(text: str, where: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise PoolError(
            f"{where} holds half a character (a lone surrogate): mend or remove the row"
        ) from None
