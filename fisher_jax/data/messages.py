"""Chats as they lie about, read as lists of messages with `role` and `content`."""

import json
import re
from collections.abc import Mapping
from typing import Any

from fisher_jax.util.excerpt import kind_of

ROLES = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "system": "system",
    "tool": "tool",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
}
_SPEAKER = re.compile(r"\n\n(Human|Assistant):[ \n]?")
_INSTEAD_OF_CONTENT = ("tool_calls", "function_call", "reasoning_content", "thinking")


def messages_of(value: Any) -> list[dict[str, Any]]:
    """A chat as messages, with null fields left out, such as Parquet fills in.

    A list of messages (`role`, `content`, as transformers' chat templates take them), of ShareGPT's
    (`from`, `value`), of pairs (`input`, `output`), or of strings, the first of which the user
    says; or such a list written as JSON. Content in parts of text becomes one text.

    Raises:
        ValueError: something else, without the row's name.
    """
    if value is None:
        return []
    if isinstance(value, str):
        value = _from_json(value, "a list of messages")
    if not isinstance(value, list):
        raise ValueError(f"holds {kind_of(value)}, not a list of messages")
    if value and all(isinstance(turn, str) for turn in value):
        return [_message(("user", "assistant")[i % 2], text) for i, text in enumerate(value)]
    messages: list[dict[str, Any]] = []
    for turn in value:
        if not isinstance(turn, Mapping):
            raise ValueError(
                "holds a message without a string 'role': a chat is a list of objects with role "
                "and content, or from and value"
            )
        if "role" not in turn and "from" in turn:
            messages.append(_message(_role(turn["from"]), turn.get("value")))
        elif "role" not in turn and {"input", "output"} <= {*turn}:
            messages.append(_message("user", turn["input"]))
            messages.append(_message("assistant", turn["output"]))
        else:
            messages.append(_checked(turn))
    return messages


def transcript_of(text: str) -> list[dict[str, Any]]:
    r"""A chat written as one text, `\n\nHuman: ...\n\nAssistant: ...`, as messages.

    Raises:
        ValueError: a text that does not begin so.
    """
    before, *turns = _SPEAKER.split(text)
    if before.strip() or not turns:
        raise ValueError("holds a text that does not begin with '\\n\\nHuman: '")
    speakers = {"Human": "user", "Assistant": "assistant"}
    return [
        _message(speakers[speaker], content)
        for speaker, content in zip(turns[::2], turns[1::2], strict=True)
    ]


def tools_of(value: Any) -> list[dict[str, Any]] | None:
    """Tools as chat templates take them, from a list of functions, or from one written as JSON.

    Raises:
        ValueError: something else, without the row's name.
    """
    if isinstance(value, str):
        value = _from_json(value, "a list of tools") if value.strip() else None
    if not value:
        return None
    if not (isinstance(value, list) and all(isinstance(tool, Mapping) for tool in value)):
        raise ValueError("holds something else than a list of tools")
    tools = [without_nulls(tool) for tool in value]
    return [
        tool
        if "function" in tool or ("type" in tool and "name" not in tool)
        else {"type": "function", "function": tool}
        for tool in tools
    ]


def without_nulls(value: Any) -> Any:
    """Objects without the fields that are null, at any depth, as Arrow fills them in."""
    if isinstance(value, Mapping):
        return {key: without_nulls(of) for key, of in value.items() if of is not None}
    if isinstance(value, list):
        return [without_nulls(of) for of in value]
    return value


def _from_json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"holds a string, not {what}") from None


def _role(name: Any) -> str:
    try:
        return ROLES[name.lower()]
    except (KeyError, AttributeError):
        raise ValueError(f"holds a message from {name!r}: known are {', '.join(ROLES)}") from None


def _message(role: str, content: Any) -> dict[str, Any]:
    return _checked({"role": role, "content": content})


def _checked(turn: Mapping[str, Any]) -> dict[str, Any]:
    role, content = turn.get("role"), turn.get("content")
    if role and content and all(type(value) is str for value in turn.values()):
        return {**turn}
    if not isinstance(role, str):
        raise ValueError(
            "holds a message without a string 'role': a chat is a list of objects with role and "
            "content, or from and value"
        )
    message = {
        key: without_nulls(value) if isinstance(value, (list, Mapping)) else value
        for key, value in turn.items()
        if value is not None
    }
    if isinstance(content, list):
        message["content"] = content = _joined(content)
    if content is None:
        if not any(message.get(key) for key in _INSTEAD_OF_CONTENT):
            raise ValueError("holds a message without a string 'content', and without tool calls")
        if "content" in turn:
            message["content"] = None  # as transformers' templates take it
    elif not isinstance(content, str):
        raise ValueError(f"holds a message whose 'content' is {kind_of(content)}, not a string")
    return message


def _joined(parts: list[Any]) -> str:
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise ValueError(f"holds a message with a part that is no text, but {kind!r}")
        texts.append(text)
    return "".join(texts)
