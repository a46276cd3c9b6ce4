"""What spoils a row of a pool: near duplicates, boilerplate, shuffled words, bad scans."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from fisher_jax.data import Example
from fisher_jax.util.errors import UserError

OCR_RATE = 0.15
MIN_EDITED_WORDS = 5  # of a row that near duplicates are made of
_TRIES = 200

_WORD = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)*")
_CONFUSIONS: dict[str, str] = dict(
    zip(
        "rn m cl d vv w li l I i o O e a n u s S B b h t f g y v r k p".split(),
        "m rn d cl w vv h 1 l l 0 0 c o u n 5 5 8 h b f t 9 v y n lc j".split(),
        strict=True,
    )
)
_CONFUSABLE = re.compile("|".join(sorted(_CONFUSIONS, key=len, reverse=True)))
_LONG_WORD = re.compile(r"[A-Za-z]{6,}")

_BOILERPLATE = (
    "Home | {section} | {section} | About us | Contact | © {year} {site}. All rights reserved.",
    "We use cookies to improve your experience on {site}. By continuing to browse you accept our "
    "cookie policy (updated {month} {year}). Accept all | Reject | Settings",
    "This website uses {number} cookies and similar technologies for {section} and analytics. "
    "Manage preferences or read our privacy notice.",
    "Sign up for the {site} newsletter and get {number}% off your first order! Enter your email "
    "address. You can unsubscribe at any time.",
    "You have {number} free articles left this month. Subscribe to {site} from ${number}.99 a "
    "month or log in to continue reading.",
    "Share this page: Facebook Twitter Pinterest Email | Posted in {section} | {number} comments "
    "| Read more »",
    "Copyright (c) {year} {site}. Permission is hereby granted, free of charge, to any person "
    "obtaining a copy of this software, to deal in it without restriction.",
    "This eBook is for the use of anyone anywhere at no cost. You may copy it, give it away or "
    "re-use it under the terms of the {site} License, version {number}, {year}.",
    "Page {number} of {number} | Previous | Next | Back to top | {section} archive, {month} {year}",
    "404 Not Found: the page you requested could not be found on {site}. Try the search or return "
    "to {section}.",
    "Skip to main content. Menu. Search {site}. {section}. {section}. Basket ({number}). Log in.",
    "Last edited on {number} {month} {year}. Content is available under CC BY-SA {number}.0 unless "
    "otherwise noted. Terms of use | Privacy policy | {site} mobile view",
)
_SLOTS = {
    "site": [a + b for a in ("Read", "Text", "Page", "Book") for b in ("Hub", "Nest", "Vault")],
    "section": "News Books Reviews Archive Shop Forum Help Sports Culture Videos".split(),
    "month": "January March May July September November December".split(),
}


class Words(NamedTuple):
    """Words of a corpus to put in the place of others: common ones, and names."""

    common: list[str]
    names: list[str]


def words_of(texts: Sequence[str]) -> Words:
    """The words of some texts, sorted; a capital that begins no sentence marks a name."""
    common, names = set(), set()
    for text in texts:
        for found in _WORD.finditer(text):
            word, before = found[0], text[: found.start()].rstrip()
            if word.islower() and len(word) > 2:
                common.add(word)
            elif word.istitle() and len(word) > 2 and before[-1:].isalpha():
                names.add(word)
    return Words(sorted(common), sorted(names))


def near_duplicate(row: Example, words: Words, rng: np.random.Generator) -> Example:
    """A row edited as lightly as a re-post is; of prompt and completion, the prompt alone.

    One or two words (two only of 12 or more) are swapped with the next, dropped or replaced, a
    name by a name of the corpus. Half of the rows also change case, half punctuation.
    """
    if row.prompt is not None:
        return row._replace(prompt=_edited(str(row.prompt), words, rng))
    return row._replace(completion=_edited(str(row.completion), words, rng))


def _edited(text: str, words: Words, rng: np.random.Generator) -> str:
    for _ in range(1 + int(len(text.split()) >= 12 and rng.random() < 0.5)):
        edit = (_swap, _drop, _replace, _rename)[int(rng.integers(4))]
        text = edit(text, words, rng)
    if rng.random() < 0.5:
        text = _change_case(text, rng)
    if rng.random() < 0.5:
        text = _change_punctuation(text, rng)
    return text


def shuffled(row: Example, rng: np.random.Generator) -> Example:
    """The same words in random order; of prompt and completion, the completion's."""

    def shuffle(text: str) -> str:
        words = text.split()
        return " ".join(words[i] for i in rng.permutation(len(words)))

    return _changed(row, shuffle)


def scanned(row: Example, rng: np.random.Generator, rate: float = OCR_RATE) -> Example:
    """A bad scan: look-alike characters, lost spaces and broken words, each at `rate`.

    Every confusable character (rn to m, l to 1, e to c, ...) is replaced with probability `rate`,
    every space lost with half of it, and every word of six letters or more broken by a hyphen and
    a space with `rate`. Of prompt and completion, the completion is scanned.
    """

    def scan(text: str) -> str:
        def confuse(found: re.Match[str]) -> str:
            return _CONFUSIONS[found[0]] if rng.random() < rate else found[0]

        def break_up(found: re.Match[str]) -> str:
            at = int(rng.integers(2, len(found[0]) - 1))
            return f"{found[0][:at]}- {found[0][at:]}" if rng.random() < rate else found[0]

        def lose(found: re.Match[str]) -> str:
            return "" if rng.random() < rate / 2 else found[0]

        text = re.sub(" ", lose, text)
        return _CONFUSABLE.sub(confuse, _LONG_WORD.sub(break_up, text))

    return _changed(row, scan)


def boilerplate(row: Example, rng: np.random.Generator) -> Example:
    """A web page's furniture (navigation, cookies, licence) in place of the row or completion."""

    def fill(found: re.Match[str]) -> str:
        slot = found[1]
        if slot == "number":
            return str(rng.integers(2, 60))
        if slot == "year":
            return str(rng.integers(1998, 2026))
        return str(rng.choice(_SLOTS[slot]))

    template = _BOILERPLATE[int(rng.integers(len(_BOILERPLATE)))]
    return _changed(row, lambda _: re.sub(r"\{(\w+)\}", fill, template))


def _changed(row: Example, change: Callable[[str], str]) -> Example:
    """The row, or its completion, changed; tried again while it stays as it was."""
    text = str(row.completion)
    changed = next((new for _ in range(_TRIES) if (new := change(text)) != text), None)
    if changed is None:
        raise UserError(f"a row can't be spoilt, it is too short: {text!r}; leave it out")
    return row._replace(completion=changed)


def _pick(text: str, pattern: re.Pattern[str], rng: np.random.Generator) -> tuple[int, int] | None:
    spans = [found.span() for found in pattern.finditer(text)]
    return spans[int(rng.integers(len(spans)))] if spans else None


def _swap(text: str, words: Words, rng: np.random.Generator) -> str:
    parts = text.split(" ")
    if len(parts) < 3:
        return text
    i = int(rng.integers(1, len(parts) - 1))
    parts[i - 1], parts[i] = parts[i], parts[i - 1]
    return " ".join(parts)


def _drop(text: str, words: Words, rng: np.random.Generator) -> str:
    parts = text.split(" ")
    if len(parts) < 3:
        return text
    del parts[int(rng.integers(len(parts)))]
    return " ".join(parts)


def _replace(text: str, words: Words, rng: np.random.Generator) -> str:
    span = _pick(text, re.compile(r"\b[a-z]+\b"), rng)
    if span is None or not words.common:
        return text
    return text[: span[0]] + words.common[int(rng.integers(len(words.common)))] + text[span[1] :]


def _rename(text: str, words: Words, rng: np.random.Generator) -> str:
    span = _pick(text, re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}\b"), rng)
    if span is None or not words.names:
        return _replace(text, words, rng)
    return text[: span[0]] + words.names[int(rng.integers(len(words.names)))] + text[span[1] :]


def _change_case(text: str, rng: np.random.Generator) -> str:
    span = _pick(text, _WORD, rng)
    if span is None:
        return text
    word = text[span[0] : span[1]]
    return (
        text[: span[0]]
        + (word.upper() if word != word.upper() else word.lower())
        + (text[span[1] :])
    )


def _change_punctuation(text: str, rng: np.random.Generator) -> str:
    span = _pick(text, re.compile(r"[.,;:!?]"), rng)
    if span is None:
        return text + "."
    others = [mark for mark in ("", ".", ",", ";", "!") if mark != text[span[0]]]
    return text[: span[0]] + others[int(rng.integers(len(others)))] + text[span[1] :]
