"""Rows of messages as the text that a model's chat template makes of them, and what is learnt."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from fisher_jax.data import Example, Message, PoolError
from fisher_jax.models.errors import ModelError
from fisher_jax.models.load import LanguageModel
from fisher_jax.util.prefix import common

_MARKS = re.compile(r"{%-?\s*generation\s*-?%}")


class WrittenChat(NamedTuple):
    """A chat as text.

    Attributes:
        text: with the template's special tokens.
        spans: where what is learnt begins and ends in it, in order.
        ends: whether the template closes the last answer, be it with a token or a word.
    """

    text: str
    spans: list[tuple[int, int]]
    ends: bool


def written(model: LanguageModel, chat: Example, where: str) -> WrittenChat:
    """A chat by the model's template.

    Of a prompt and a completion the completion is learnt, which begins where the template starts an
    answer; of messages the turns of the assistant, with what closes them. These are what the
    template marks as `{% generation %}`; without marks they are located by rendering the chat up to
    each turn, with and without it. A chat in which no assistant speaks is learnt whole.

    Where the template wants content as parts (`[{"type": "text", ...}]`), it gets them.

    Raises:
        PoolError: the model has no template, it refuses the chat, leaves out what is to be learnt,
            or writes what comes before a turn otherwise once that is there.
    """
    if not model.chats:
        raise PoolError(
            f"{where} is a chat, and {model.name} has no chat template: name a model that has one, "
            "write the rows as text, or name columns by `prompt_column` and `completion_column`"
        )
    if not chat.completion or not chat.messages:
        return WrittenChat("", [], True)
    try:
        return _Chat(model, chat).written()
    except ModelError as error:
        raise PoolError(f"{where}: {error}, or mend or remove the row") from None
    except _UnknownTurnError as error:
        raise PoolError(f"{where}: the chat template of {model.name} {error}") from None


def writes_tools(model: LanguageModel) -> bool:
    """Whether the chat template looks at a row's tools."""
    template: Any = getattr(model.tokenizer, "chat_template", None)
    return "tools" in str(template)


class _UnknownTurnError(Exception):
    """What is learnt can't be found in what the template writes."""


class _Chat:
    """One chat, one template."""

    def __init__(self, model: LanguageModel, chat: Example) -> None:
        self.model, self.chat = model, chat
        self.messages: Sequence[Message] = chat.messages
        self.whole = self.render(len(self.messages))
        if any(word not in self.whole for message in self.messages for word in _says(message)):
            self._try_parts()
        self.has_prompt = chat.prompt is not None
        first = len(chat.prompt) if chat.prompt is not None else 0
        self.learnt = [
            k
            for k, message in enumerate(self.messages)
            if k >= first and (self.has_prompt or message["role"] == "assistant")
        ]
        self.first = first

    def render(self, end: int, is_asked: bool = False) -> str:
        """The first messages."""
        return self.model.render(self.messages[:end], is_asked, self.chat.tools, self.chat.options)

    def _try_parts(self) -> None:
        """Content as parts, where the template writes more of them."""
        texts, whole = self.messages, self.whole
        self.messages = [
            {**m, "content": [{"type": "text", "text": m["content"]}]} if m.get("content") else m
            for m in texts
        ]
        try:
            self.whole = self.render(len(texts))
            better = all(word in self.whole for m in texts for word in _says(m))
        except ModelError:
            better = False
        if not better:
            self.messages, self.whole = texts, whole

    def written(self) -> WrittenChat:
        """See `written`."""
        for k in self.learnt:
            for word in _says(self.messages[k]):
                if word not in self.whole:
                    raise _UnknownTurnError(
                        f"leaves out what is to be learnt ({word[:40]!r}): write the row as the "
                        "template does, or take another model"
                    )
        if not self.learnt:
            return WrittenChat(self.whole, [(0, len(self.whole))], True)
        if self.has_prompt:
            spans = [(self._begin(self.first), len(self.whole))]
        else:
            spans = self._marked() or self._located()
        *_, last = ["", *_says(self.messages[-1])]
        closing = self.whole[self.whole.rfind(last) + len(last) :]
        return WrittenChat(self.whole, spans, bool(closing.strip()))

    def _marked(self) -> list[tuple[int, int]]:
        """Spans that the template marks itself."""
        tokenizer: Any = self.model.tokenizer
        template = tokenizer.get_chat_template(tools=self.chat.tools)
        if not _MARKS.search(template):
            return []
        return self.model.generated(self.messages, self.chat.tools, self.chat.options)

    def _located(self) -> list[tuple[int, int]]:
        spans: list[tuple[int, int]] = []
        for k in self.learnt:
            after = spans[-1][1] if spans else 0
            spans.append(self._by_prefix(k, after) or self._by_search(k, after))
        return spans

    def _begin(self, k: int) -> int:
        """Where the template starts turn k: as far as the chat before it stays as it is."""
        if k == 0:
            word = (_says(self.messages[0]) or [""])[0]
            return max(0, self.whole.find(word))
        asked = self.render(k, self.messages[k - 1]["role"] != "assistant")
        prompt = asked[: common(asked, self.whole)]
        if any(word not in prompt for word in _says(self.messages[k - 1])):
            raise _UnknownTurnError(
                "writes the prompt otherwise once it is answered: write prompt and completion as "
                "strings"
            )
        return len(prompt)

    def _by_prefix(self, k: int, after: int) -> tuple[int, int] | None:
        """Turn k, where what is written up to its end is a prefix of the whole."""
        try:
            begin = self._begin(k)
        except _UnknownTurnError:
            return None
        end = len(self.whole)
        if k + 1 < len(self.messages):
            end = common(self.render(k + 1), self.whole)
        turn = self.whole[begin:end]
        if begin < after or any(word not in turn for word in _says(self.messages[k])):
            return None
        return begin, end

    def _by_search(self, k: int, after: int) -> tuple[int, int]:
        """Turn k of a template that writes earlier turns otherwise once there are later ones."""
        unasked, asked = self.render(k), self.render(k, is_asked=True)
        opening = asked[common(unasked, asked) :]
        words = _says(self.messages[k])
        through = self.render(k + 1)
        if opening and len(words) == 1 and words[0] in through:
            (word,) = words
            closing = through[through.rfind(word) + len(word) :]
            at = self.whole.find(opening + word, after)
            if at >= 0:
                begin, end = at + len(opening), at + len(opening + word)
                return begin, end + common(closing, self.whole[end:])
        raise _UnknownTurnError(
            "writes an answer otherwise once the chat goes on, so that it can't be located: pass "
            "`positions=all`, or write prompt and completion"
        )


def _says(message: Message) -> list[str]:
    """Texts of a message that a template should write."""
    content, calls = message.get("content"), message.get("tool_calls") or ()
    if isinstance(content, list):
        content = "".join(part["text"] for part in content)
    names = [call.get("function", call).get("name") for call in calls]
    return [text for text in ((content or "").strip(), *names) if text]
