"""A row of a pool: a text, a prompt and its completion, or a chat."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fisher_jax.util.errors import UserError

Message = Mapping[str, Any]


class PoolError(UserError):
    """A pool that can't be used; the message names file, line, reason and remedy."""


class Example(NamedTuple):
    """A row as a model learns it.

    Attributes:
        completion: what there is to learn: a text, or messages (`role`, `content`). Without a
            prompt it is the whole row; of a chat the assistant's turns are learnt.
        prompt: what comes before it and is not learnt, of the same kind.
        tools: what a chat template is told of tools.
        options: more variables of a chat template (TRL's `chat_template_kwargs`).
    """

    completion: str | Sequence[Message]
    prompt: str | Sequence[Message] | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    options: Mapping[str, Any] | None = None

    @property
    def is_chat(self) -> bool:
        """Whether a chat template has to write it."""
        return not isinstance(self.completion, str)

    @property
    def messages(self) -> list[Message]:
        """All of a chat; empty for texts."""
        if isinstance(self.completion, str):
            return []
        return [*(self.prompt or ()), *self.completion]  # type: ignore[list-item]

    @property
    def has_prompt(self) -> bool:
        """Whether something comes before what is learnt: of a chat, before the first answer."""
        if self.prompt is not None:
            return True
        return any(message["role"] == "assistant" for message in self.messages[1:])

    @property
    def lacks_prompt(self) -> bool:
        """Whether something is learnt, and nothing comes before it."""
        return bool(self.completion) and not self.has_prompt

    def text(self, system: bool = True) -> str:
        """What the row says, a line for a prompt and each message, without a template's words."""
        return "\n".join(said for role, said in self.parts() if system or role != "system")

    def parts(self) -> Iterator[tuple[str, str]]:
        """Who says what: a role and a text for each message, of strings prompt and completion."""
        if isinstance(self.completion, str):
            if self.prompt is not None:
                yield "prompt", str(self.prompt)
            yield "completion", self.completion
        for message in self.messages:
            yield message["role"], said(message)

    def preview(self) -> str:
        """The row as a text to look at."""
        if self.is_chat:
            return "\n".join(f"{role}: {text}" for role, text in self.parts())
        return " → ".join(text for _, text in self.parts())


def said(message: Message) -> str:
    """The content of a message, and the calls of tools in it as JSON."""
    content, calls = message.get("content") or "", message.get("tool_calls")
    if not calls:
        return content
    return "\n".join(filter(None, [content, json.dumps(calls, ensure_ascii=False)]))
