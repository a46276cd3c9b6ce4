"""Rows as token ids, and which of them are learnt."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from fisher_jax.data import Example, examples_of
from fisher_jax.models.chat import written
from fisher_jax.models.load import LanguageModel
from fisher_jax.util.errors import UserError
from fisher_jax.util.prefix import common

Positions = Literal["completion", "all", "prompt"]
_CHUNK = 1000  # rows whose texts and offsets are in memory at once


class TokenizedRows(NamedTuple):
    """Rows as token ids.

    Attributes:
        ids: the tokens of each row.
        learnt: which of them are predicted and count; never a row's first.
        cut: was the row cut?
    """

    ids: list[Int[np.ndarray, "M"]]
    learnt: list[Bool[np.ndarray, "M"]]
    cut: Bool[np.ndarray, "N"]

    @classmethod
    def after(
        cls, ids: Sequence[Int[np.ndarray, "_"]], first: int | Int[np.ndarray, "N"] = 1
    ) -> "TokenizedRows":
        """Whole rows of which the tokens `first[i]:` count."""
        begins = np.broadcast_to(first, len(ids))
        learnt = [np.arange(len(row)) >= begin for row, begin in zip(ids, begins, strict=True)]
        return cls([*ids], learnt, np.zeros(len(ids), bool))

    @property
    def counted(self) -> Int[np.ndarray, "N"]:
        """Embeddings a row has; 0 where there is nothing to predict."""
        return np.asarray([np.count_nonzero(learnt) for learnt in self.learnt], np.int64)

    @property
    def labels(self) -> list[Int[np.ndarray, "_"]]:
        """Of each row the tokens that count."""
        return [self.labels_of(i) for i in range(len(self.ids))]

    def labels_of(self, i: int) -> Int[np.ndarray, "_"]:
        """Row i's tokens that count."""
        return self.ids[i][self.learnt[i]]

    def take(self, rows: np.ndarray) -> "TokenizedRows":
        """Some of the rows."""
        ids, learnt = ([of[i] for i in rows] for of in (self.ids, self.learnt))
        return TokenizedRows(ids, learnt, self.cut[rows])

    @property
    def offsets(self) -> Int[np.ndarray, "_"]:
        """(N + 1,): row i's embeddings are `offsets[i] : offsets[i + 1]`."""
        return np.concatenate([[0], np.cumsum(self.counted)])


def tokenize(
    model: LanguageModel,
    rows: Sequence[str | Example],
    max_length: int | None = None,
    positions: Positions = "completion",
    where: Callable[[int], str] = "row {}".format,
    *,
    eos: bool | None = None,
) -> TokenizedRows:
    """Token ids of the rows, cut to `max_length` (default: the model's context).

    A text has the tokens that the tokenizer gives with its own defaults, but for a second
    beginning-of-sequence token where the text brings its own. A prompt and its completion have
    those of the joint text; the completion's begin after the longest common prefix with the
    prompt's, so a token on the boundary is learnt. Chats are `written` by the model's template,
    which brings its own special tokens. A row with a completion, or a chat that the template does
    not close, ends in the end-of-sequence token, which is learnt.

    Args:
        positions: which tokens count: "completion" (of texts all, of chats the assistant's turns),
            "all", or "prompt" (what comes before the first of those, of which the last position
            predicts the completion's first token).
        where: row i as a person would look for it.
        eos: True ends texts in the end-of-sequence token as well, False no row.

    Raises:
        ValueError: a max_length that the model can't take; prompt positions of rows without one;
            a token that the model doesn't know.
        PoolError: see `written`.
    """
    if positions not in ("completion", "all", "prompt"):
        raise UserError(f"positions must be 'completion', 'all' or 'prompt', got {positions!r}")
    examples = examples_of(rows)
    plain = next((i for i, row in enumerate(examples) if row.lacks_prompt), None)
    if positions == "prompt" and plain is not None:
        raise UserError(
            f"{where(plain)} has no prompt: prompt positions are for prompt + completion rows"
        )
    limit = model.context if max_length is None else max_length
    if not isinstance(limit, int | np.integer) or not 2 <= limit <= model.context:
        raise UserError(
            f"max_length must be from 2 to {model.context}, the context of {model.name}, "
            f"got {limit}"
        )
    ids, learnt, cut = [], [], []
    for begin in range(0, len(examples), _CHUNK):
        chunk = examples[begin : begin + _CHUNK]
        for row in _tokenized(model, chunk, lambda i, begin=begin: where(begin + i), eos):
            whole, is_learnt = row
            if (highest := max(whole, default=0)) >= model.module.config.vocab:
                raise UserError(
                    f"{where(len(ids))} has token {highest}, outside the vocabulary of "
                    f"{model.name}: its tokenizer is not the model's own, mend that folder"
                )
            if positions == "prompt":
                whole = whole[: max(1, _first(is_learnt)) + 1]
            if positions != "completion":
                is_learnt = np.ones(len(whole), bool)
            is_learnt[:1] = False  # nothing predicts it
            cut.append(len(whole) > limit)
            ids.append(np.asarray(whole[:limit], np.int32))
            learnt.append(is_learnt[:limit])
    return TokenizedRows(ids, learnt, np.asarray(cut, bool))


def shown(model: LanguageModel, rows: TokenizedRows, i: int) -> str:
    """Row i's text, what counts between ⟦ and ⟧."""
    decode: Any = model.tokenizer
    ids, learnt = rows.ids[i], rows.learnt[i]
    changes = np.flatnonzero(np.diff(learnt.astype(np.int8))) + 1
    return "".join(
        f"⟦{decode.decode(part)}⟧" if counts[:1].any() else decode.decode(part)
        for part, counts in zip(np.split(ids, changes), np.split(learnt, changes), strict=True)
    )


def word(model: LanguageModel, rows: TokenizedRows, i: int, j: int) -> str:
    """The text of the token that embedding j of row i predicts."""
    decode: Any = model.tokenizer
    return decode.decode(rows.labels_of(i)[j : j + 1])


def _tokenized(
    model: LanguageModel,
    rows: Sequence[Example],
    where: Callable[[int], str],
    eos: bool | None,
) -> Iterator[tuple[list[int], Bool[np.ndarray, "M"]]]:
    """Ids and what is learnt of each row, whole."""
    end = getattr(model.tokenizer, "eos_token_id", None) if eos is not False else None
    chats = [written(model, row, where(i)) for i, row in enumerate(rows) if row.is_chat]
    of_chats = iter(_encoded(model, [chat.text for chat in chats], offsets=True))
    texts = [f"{row.prompt or ''}{row.completion}" for row in rows if not row.is_chat]
    of_texts = iter(_encoded(model, texts))
    prompts = [str(row.prompt) for row in rows if row.prompt is not None and not row.is_chat]
    of_prompts = iter(_encoded(model, prompts))
    each_chat = iter(chats)
    for row in rows:
        if row.is_chat:
            chat, (ids, offsets) = next(each_chat), next(of_chats)
            learnt = _within(offsets, chat.spans)
            ends = end is not None and not chat.ends
        else:
            ids, _ = next(of_texts)
            learnt = np.ones(len(ids), bool)
            if row.prompt is not None:
                prompt, _ = next(of_prompts)
                learnt[: common(prompt, ids)] = False
            ends = end is not None and (eos is True or bool(row.prompt is not None))
            ends = ends and row.completion != ""
        if ends and ids[-1:] != [end]:
            ids, learnt = [*ids, end], np.append(learnt, True)
        yield ids, learnt


def _encoded(
    model: LanguageModel, texts: list[str], offsets: bool = False
) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Ids of texts with the tokenizer's special tokens, or without, and the texts' offsets."""
    if not texts:
        return []
    tokenizer: Any = model.tokenizer
    options = {"return_offsets_mapping": True} if offsets else {}
    encoded = tokenizer(texts, add_special_tokens=not offsets, verbose=False, **options)
    if offsets:
        return [*zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)]
    bos = getattr(tokenizer, "bos_token_id", None)
    return [
        (ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids, [])
        for ids in encoded["input_ids"]
    ]


def _within(
    offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]
) -> Bool[np.ndarray, "M"]:
    """Tokens that have a character of a span."""
    learnt = np.zeros(len(offsets), bool)
    if len(offsets):
        begins_M, ends_M = np.asarray(offsets).T
        for begin, end in spans:
            learnt |= (ends_M > begin) & (begins_M < end)
    return learnt


def _first(learnt: Bool[np.ndarray, "M"]) -> int:
    """The first that is learnt; the length where none is."""
    return int(np.argmax(learnt)) if learnt.any() else len(learnt)
