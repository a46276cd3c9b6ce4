import functools
import json
from difflib import SequenceMatcher

import numpy as np
import pytest

from experiments.corpora import pools
from experiments.corpora.corpora import Passage
from experiments.corpora.corruptions import boilerplate, near_duplicate, scanned, shuffled, words_of
from experiments.corpora.pools import (
    KINDS,
    make_pool,
    split_corpus,
)
from fisher_jax.data import Example, PoolError
from fisher_jax.data.duplicates import deduplicate_exact, deduplicate_near, normalized

SIZES = {"n_pool": 300, "n_validation": 41, "n_test": 61}
NOUNS = """anchor basket candle desert engine feather garden hammer island jacket kettle ladder
mirror needle orchard pillow quarry ribbon saddle temple umbrella valley window yard zebra bridge
castle dagger forest glove harbour insect jewel kingdom lantern meadow nettle ocean palace river
shadow thunder uncle vessel whistle acorn barrel cannon dragon emperor""".split()
VERBS = """carried followed painted watched borrowed covered destroyed entered finished gathered
measured noticed opened pushed repaired searched trusted visited wanted answered""".split()
NAMES = "Alice Bertram Cordelia Duncan Edmund Fleance Gertrude Horatio Imogen Juliet".split()


@functools.lru_cache
def passages(corpus, n_groups=12, n_rows=100):
    """Random sentences; a tenth are in every group, and a tenth repeated in other letters."""
    rng = np.random.default_rng(len(corpus))

    def sentence():
        nouns, verbs = rng.choice(NOUNS, 5), rng.choice(VERBS, 2)
        return (
            f"In the {nouns[0]} {rng.choice(NAMES)} {verbs[0]} a {nouns[1]}, and {corpus} "
            f"{verbs[1]} the {nouns[2]} of {rng.choice(NAMES)}: {nouns[3]} by {nouns[4]}."
        )

    common = [sentence() for _ in range(n_rows // 10)]
    found = []
    for group in range(n_groups):
        rows = [sentence() for _ in range(n_rows)]
        rows += common + [row.upper().replace(" ", "  ") for row in rows[: n_rows // 10]]
        found += [Passage(Example(row), f"story {group}") for row in rows]
    return found


@functools.lru_cache
def questions():
    return [
        Passage(Example(f"{i} + 1 =\n#### {i + 1}", f"{p.row.text()} How many?"), part)
        for part, n_groups in (("train", 6), ("test", 2))
        for i, p in enumerate(passages(part, n_groups))
    ]


@pytest.fixture(autouse=True)
def corpora(monkeypatch):
    def read(name, path=None):
        return questions() if name == "gsm8k" else passages(name)

    monkeypatch.setattr(pools, "read_corpus", read)
    pools._passages.cache_clear()  # of the real ones, and then of these
    yield
    pools._passages.cache_clear()


def groups_of(corpus, rows):
    """Groups that have a row, with copies of it in other letters; none for edited rows."""
    having = {}
    for p in pools.read_corpus(corpus):
        having.setdefault(normalized(p.row), set()).add(p.group)
    return [having.get(normalized(row), set()) for row in rows]


@pytest.mark.parametrize(("share", "stories"), [(0.25, 3), (0.15, 2), (0.5, 6)])
def test_a_share_of_the_groups_is_held_out(share, stories):
    split = split_corpus("shakespeare", 41, 61, 0, held_out=share)
    assert len({p.group for p in split.pool}) == 12 - stories
    pool = make_pool("clean", "shakespeare", **SIZES, seed=0, held_out=share)
    assert pool.test == [p.row for p in split.test]


@pytest.mark.parametrize("corpus", ["shakespeare", "gsm8k"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_the_same_bytes_and_another_other_ones(kind, corpus):
    pool, again, other = (make_pool(kind, corpus, **SIZES, seed=s) for s in (3, 3, 4))
    assert json.dumps([pool.rows, pool.test]) == json.dumps([again.rows, again.test])
    assert pool.facts == again.facts == json.loads(json.dumps(pool.facts))
    assert (pool.kind == again.kind).all()
    for part in ("pool", "validation", "test"):
        assert pool.facts["sha256"][part] != other.facts["sha256"][part]
    assert len(pool.rows) == len(pool.kind) == 300
    assert (len(pool.validation), len(pool.test), len(pool.test_domain)) == (41, 61, 61)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_no_group_and_no_text_is_in_two_parts(kind, seed):
    pool = make_pool(kind, "shakespeare", **SIZES, seed=seed, second="sherlock")
    groups = pool.facts["groups"]
    assert not set(groups["pool"]) & {*groups["validation"], *groups["test"]}
    assert len({*groups["validation"], *groups["test"]}) <= 3 * (1 + (kind == "imbalance"))
    judged = [normalized(row) for row in (*pool.validation, *pool.test)]
    assert len(set(judged)) == len(judged)
    assert not set(judged) & {normalized(row) for row in pool.rows}
    originals = [r for r, k in zip(pool.rows, pool.kind, strict=True) if k in ("own", "second")]
    assert len({normalized(row) for row in originals}) == len(originals)
    for corpus in ("shakespeare", "sherlock"):
        for part, rows in (("pool", originals), ("test", pool.test)):
            for of_row in groups_of(corpus, rows):
                named = {f"{corpus}/{group}" for group in of_row}
                assert not named or named & set(groups[part])


def test_a_text_of_both_corpora_is_in_one_part(monkeypatch):
    both = passages("shakespeare")[:900] + passages("sherlock")[:900]
    mixed = [Passage(p.row, f"book {i % 7}") for i, p in enumerate(both)]
    monkeypatch.setattr(pools, "read_corpus", lambda n, _: mixed if n == "mixed" else passages(n))
    pool = make_pool("imbalance", "shakespeare", **SIZES, seed=0, second="mixed")
    texts = [normalized(row) for row in (*pool.rows, *pool.validation, *pool.test)]
    assert len(set(texts)) == len(texts) == 402


def test_questions_keep_their_own_test_rows():
    split = split_corpus("gsm8k", 50, 100, seed=0)
    assert {p.group for p in split.test} == {"test"}
    assert {p.group for p in split.validation} == {p.group for p in split.pool} == {"train"}
    texts = [normalized(p.row) for part in split for p in part]
    assert len(set(texts)) == len(texts)


def test_kinds_of_a_seed_share_validation_and_test():
    clean, duplicates, noise = (
        make_pool(kind, "shakespeare", **SIZES, seed=5) for kind in ("clean", "duplicates", "noise")
    )
    assert clean.validation == duplicates.validation == noise.validation
    assert clean.test == duplicates.test == noise.test


@pytest.mark.parametrize(
    ("kind", "counts"),
    [
        ("clean", {"own": 300}),
        ("duplicates", {"own": 90, "duplicate": 105, "near_duplicate": 105}),
        ("imbalance", {"own": 276, "second": 24}),
        ("noise", {"own": 240, "boilerplate": 20, "shuffled": 20, "ocr": 20}),
    ],
)
def test_every_kind_has_its_shares(kind, counts):
    pool = make_pool(kind, "shakespeare", **SIZES, seed=0)
    labels, numbers = np.unique(pool.kind, return_counts=True)
    assert dict(zip(labels.tolist(), numbers.tolist(), strict=True)) == counts
    assert pool.facts["counts"] == counts
    assert len(set(np.flatnonzero(pool.kind == "own")) & set(range(150))) < counts["own"]  # mixed
    two = kind == "imbalance"
    assert pool.test_domain.tolist() == ([0] * 31 + [1] * 30 if two else [0] * 61)
    assert ["sherlock" in row.text().lower() for row in pool.test] == (
        pool.test_domain == 1
    ).tolist()
    assert sum("sherlock" in row.text().lower() for row in pool.validation) == (20 if two else 0)
    if two:
        assert ["sherlock" in row.text().lower() for row in pool.rows] == (
            pool.kind == "second"
        ).tolist()


def test_copies_are_of_few_rows_and_half_are_edited():
    pool = make_pool("duplicates", "shakespeare", **SIZES, seed=0)
    labelled = list(zip(pool.rows, pool.kind, strict=True))
    of = {kind: [r for r, k in labelled if k == kind] for kind in set(pool.kind)}
    own, exact = {normalized(r) for r in of["own"]}, set(of["duplicate"])
    assert len(exact) == pools.MIN_SOURCES and exact <= set(of["own"])
    edited = {normalized(row) for row in of["near_duplicate"]}
    assert len(edited) == 105 and not edited & own
    for row in of["near_duplicate"]:
        nearest = max(
            SequenceMatcher(None, row.text().split(), e.text().split()).ratio() for e in exact
        )
        assert nearest > 0.6
    assert len(deduplicate_exact(pool.rows)) == 195


@pytest.mark.parametrize("corpus", ["shakespeare", "gsm8k"])
def test_noise_replaces_rows_of_the_clean_pool(corpus):
    clean = make_pool("clean", corpus, **SIZES, seed=2)
    noise = make_pool("noise", corpus, **SIZES, seed=2)
    kept = [r for r, k in zip(noise.rows, noise.kind, strict=True) if k == "own"]
    assert set(kept) <= set(clean.rows) and len(set(kept)) == 240
    spoilt = [r for r, k in zip(noise.rows, noise.kind, strict=True) if k != "own"]
    assert not set(spoilt) & set(clean.rows)
    if corpus == "gsm8k":
        assert {row.prompt for row in spoilt} <= {row.prompt for row in clean.rows}


def test_spoilt_rows_are_spoilt_as_said():
    rng = np.random.default_rng(0)
    text = "The modern clerk turned over every yellow leaf of his returned manuscript."
    row = Example(text)
    mixed = [shuffled(row, rng).text().split() for _ in range(2)]
    assert sorted(mixed[0]) == sorted(text.split()) != mixed[1]
    scans = [scanned(row, rng).text() for _ in range(200)]
    share = [1 - SequenceMatcher(None, text, s, autojunk=False).ratio() for s in scans]
    assert 0.08 < np.mean(share) < 0.22
    assert any("modem" in s for s in scans) and any("- " in s for s in scans)
    assert any(s.count(" ") < text.count(" ") for s in scans)
    assert scanned(row, rng, rate=1.0).text().isascii()
    pages = {boilerplate(row, rng).text() for _ in range(50)}
    assert len(pages) > 30 and not any("{" in page or "clerk" in page for page in pages)
    with pytest.raises(ValueError, match="too short: 'one'"):
        shuffled(Example("one"), rng)


def test_near_duplicates_are_light_edits():
    rng = np.random.default_rng(1)
    text = "When the old keeper met Alice, he forgot the garden and the lantern by the river."
    words = words_of([text, "We asked Horatio about wonderful things."])
    assert words.names == ["Alice", "Horatio"]
    assert "wonderful" in words.common and "When" not in words.common
    edits = [near_duplicate(Example(text), words, rng).text() for _ in range(200)]
    assert np.mean([e != text for e in edits]) > 0.9
    assert all(abs(len(e.split()) - len(text.split())) <= 2 for e in edits)
    assert any("Horatio" in e for e in edits) and any("wonderful" in e for e in edits)
    row = near_duplicate(Example("The answer.", text), words, rng)
    assert row.completion == "The answer."


@pytest.mark.parametrize("corpus", ["shakespeare", "gsm8k"])
def test_near_duplicates_are_found_and_clean_rows_kept(corpus):
    pytest.importorskip("datasketch", reason="needs: pip install -e '.[dedup]'")
    pool = make_pool("duplicates", corpus, **SIZES, seed=1)
    kept = np.isin(np.arange(300), deduplicate_near(pool.rows))
    assert np.mean(~kept[pool.kind == "near_duplicate"]) > 0.8
    assert np.mean(~kept[pool.kind == "duplicate"]) > 0.8  # but first ones of their cluster
    own = pool.kind == "own"
    assert np.sum(~kept[own]) <= pools.MIN_SOURCES + 2
    clean = make_pool("clean", "shakespeare", **SIZES, seed=1).rows
    assert len(deduplicate_near(clean)) > 0.98 * len(clean)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "dirty"}, "kind must be one of clean, duplicates, imbalance, noise, got 'dirty'"),
        ({"n_pool": 0}, "n_pool must be at least 1, got 0"),
        ({"n_test": -1}, "n_test must be at least 1"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"n_pool": 5000}, "n_pool: shakespeare's pool rows are .*, fewer than 5,000"),
        ({"n_test": 5000}, "n_test: shakespeare's held-out rows are .*, fewer than 5,000"),
        ({"n_validation": 5000}, "n_validation: shakespeare's rows left are .* fewer than 5,000"),
        ({"kind": "imbalance", "second": "shakespeare"}, "second must be another corpus"),
        ({"kind": "duplicates", "n_pool": 20}, "6 of the 6 clean rows have 5 words or more"),
    ],
)
def test_pools_that_cannot_be_are_refused(options, message):
    asked = {"kind": "clean", "corpus": "shakespeare", **SIZES, "seed": 0} | options
    with pytest.raises(ValueError, match=message):
        make_pool(**asked)


def test_a_corpus_of_one_group_is_refused(monkeypatch):
    monkeypatch.setattr(pools, "read_corpus", lambda name, path: [Passage(Example("a"), "x")])
    with pytest.raises(PoolError, match="one has 1 group"):
        split_corpus("one", 1, 1, 0)
