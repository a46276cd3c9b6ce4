"""Pools to select from: clean ones, and ones with duplicates, a minority domain, or noise.

A seed fixes everything. Kinds of one corpus and seed share the split: `clean`, `duplicates` and
`noise` have the same validation and test rows, so that selectors are compared in pairs.
"""

import functools
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.corpora.corpora import Passage, read_corpus
from experiments.corpora.corruptions import (
    MIN_EDITED_WORDS,
    boilerplate,
    near_duplicate,
    scanned,
    shuffled,
    words_of,
)
from fisher_jax.data import Example, PoolError
from fisher_jax.data.duplicates import normalized
from fisher_jax.util.checks import check_seed

KINDS = ("clean", "duplicates", "imbalance", "noise")
HELD_OUT = 0.25  # of the groups, for validation and test: 3 of Sherlock's 12 stories
COPIED = 0.7  # of the rows of `duplicates` are copies ...
SOURCES = 75 / 5000  # ... of so many rows per row of the pool, at least MIN_SOURCES
MIN_SOURCES = 10
MINORITY = 0.08  # of the rows of `imbalance` are of the second corpus
NOISY = 0.2  # of the rows of `noise` are spoilt, a third in each way

_SPOIL: dict[str, Callable[[Example, np.random.Generator], Example]] = {
    "boilerplate": boilerplate,
    "shuffled": shuffled,
    "ocr": scanned,
}
_TRIES = 1000


class Pool(NamedTuple):
    """A pool and what to judge on.

    `kind` names each row of the pool: own, second, duplicate, near_duplicate, boilerplate,
    shuffled or ocr. `test_domain` is 0 for rows of the corpus, 1 for the second one's; where there
    are two, validation and test hold half of each, the corpus' own rows first.
    """

    rows: list[Example]
    kind: np.ndarray
    validation: list[Example]
    test: list[Example]
    test_domain: np.ndarray
    facts: dict[str, Any]


class Split(NamedTuple):
    """Distinct passages of a corpus: all that may be in the pool, validation and test."""

    pool: list[Passage]
    validation: list[Passage]
    test: list[Passage]


def make_pool(
    kind: str,
    corpus: str,
    *,
    n_pool: int,
    n_validation: int,
    n_test: int,
    seed: int,
    second: str = "sherlock",
    path: str | None = None,
    second_path: str | None = None,
    held_out: float = HELD_OUT,
) -> Pool:
    """A pool of one kind with `n_pool` rows, in random order.

    - `clean`: distinct rows. A share of the groups (plays, stories, blocks) is held out for
      validation and test; GSM8K has its own test rows, its validation is of train rows.
    - `duplicates`: 30% distinct clean rows, and 70% copies of a few of them (75 for 5000 rows, at
      least 10, of five words or more): half exact, half near, as `near_duplicate` edits them.
    - `imbalance`: 92% of the corpus, 8% of the second; validation and test half each.
    - `noise`: the clean pool with 20% of the rows replaced, a third each by boilerplate, by their
      words shuffled, and by a bad scan of them.

    Args:
        kind: see above.
        corpus: a name as `read_corpus` takes it.
        n_pool: rows of the pool.
        n_validation: rows to choose options on.
        n_test: rows to judge on.
        seed: of the split, the draw and the edits.
        second: the minority's corpus, for `imbalance`.
        path: the corpus' file or folder.
        second_path: the second corpus' file or folder.
        held_out: share of the groups, of both corpora, for validation and test.

    Raises:
        PoolError: an unknown kind or corpus, sizes below 1, or a corpus with too few rows.
        UserError: a seed that is none.
    """
    if kind not in KINDS:
        raise PoolError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    for name, n in (("n_pool", n_pool), ("n_validation", n_validation), ("n_test", n_test)):
        if n < 1:
            raise PoolError(f"{name} must be at least 1, got {n}")
    check_seed(seed)
    both = kind == "imbalance"
    if both and corpus == second:
        raise PoolError(f"second must be another corpus than {corpus!r} for kind 'imbalance'")
    n_own = n_pool - (round(MINORITY * n_pool) if both else 0)
    if kind == "duplicates":
        n_own = n_pool - round(COPIED * n_pool)
    own_test = n_test - n_test // 2 if both else n_test
    own_validation = n_validation - n_validation // 2 if both else n_validation
    split = split_corpus(corpus, own_validation, own_test, seed, path, held_out=held_out)
    own = _first(split.pool, n_own, f"{corpus}'s pool rows", "n_pool")
    parts, used = [(corpus, split)], [(corpus, p) for p in own]
    rng = np.random.default_rng([seed, KINDS.index(kind), 1])
    rows = [p.row for p in own]
    labels = ["own"] * n_own
    if kind == "duplicates":
        copies = _copies(rows, [p.row for p in split.pool], n_pool - n_own, n_pool, rng)
        rows += [row for row, _ in copies]
        labels += [label for _, label in copies]
    elif kind == "noise":
        places = rng.permutation(n_pool)[: round(NOISY * n_pool)]
        for way, some in zip(_SPOIL, np.array_split(places, len(_SPOIL)), strict=True):
            for i in some:
                rows[i], labels[i] = _SPOIL[way](rows[i], rng), way
    elif both:
        taken = {normalized(p.row) for p in (*split.pool, *split.validation, *split.test)}
        other = split_corpus(
            second, n_validation // 2, n_test // 2, seed, second_path, taken, held_out
        )
        minority = _first(other.pool, n_pool - n_own, f"{second}'s pool rows", "n_pool")
        rows += [p.row for p in minority]
        labels += ["second"] * len(minority)
        parts.append((second, other))
        used += [(second, p) for p in minority]
    order = rng.permutation(n_pool)
    rows = [rows[i] for i in order]
    kinds = np.asarray(labels)[order]
    validation, test = (
        [p.row for _, s in parts for p in getattr(s, part)] for part in ("validation", "test")
    )
    facts = {
        "kind": kind,
        "corpus": corpus,
        "second": second if both else None,
        "seed": seed,
        "n_pool": n_pool,
        "n_validation": n_validation,
        "n_test": n_test,
        "counts": dict(sorted(Counter(labels).items())),
        "groups": {
            "pool": sorted({f"{name}/{p.group}" for name, p in used}),
            "validation": sorted({f"{n}/{p.group}" for n, s in parts for p in s.validation}),
            "test": sorted({f"{n}/{p.group}" for n, s in parts for p in s.test}),
        },
        "sha256": {
            "pool": hash_rows(rows),
            "validation": hash_rows(validation),
            "test": hash_rows(test),
        },
    }
    domain = np.repeat(np.arange(len(parts)), [len(s.test) for _, s in parts])
    return Pool(rows, kinds, validation, test, domain, facts)


def split_corpus(
    corpus: str,
    n_validation: int,
    n_test: int,
    seed: int,
    path: str | None = None,
    taken: set[str] | None = None,
    held_out: float = HELD_OUT,
) -> Split:
    """A corpus' distinct passages in random order, split by group.

    A share of the groups, at least one, gives validation and test and nothing to the pool.
    Groups named train and test are kept as they are, and validation is of train rows. Of equal
    texts (`normalized`), one is kept: test's before validation's before the pool's; none is kept
    that is in `taken`.

    Raises:
        PoolError: too few groups or rows.
    """
    passages = _passages(corpus, path)
    rng = np.random.default_rng([seed, zlib.crc32(corpus.encode())])
    groups = sorted({p.group for p, _ in passages})
    if len(groups) < 2:
        raise PoolError(f"{corpus} has {len(groups)} group, a split by group needs two or more")
    given = groups == ["test", "train"]
    n_held = max(1, round(held_out * len(groups)))
    held = {"test"} if given else {groups[i] for i in rng.permutation(len(groups))[:n_held]}
    shuffled = [passages[i] for i in rng.permutation(len(passages))]
    seen = set(taken or ())
    inside = _distinct([two for two in shuffled if two[0].group in held], seen)
    outside = [two for two in shuffled if two[0].group not in held]
    test = _first(inside, n_test, f"{corpus}'s held-out rows", "n_test")
    rest = _distinct(outside, seen) if given else inside[n_test:]
    validation = _first(rest, n_validation, f"{corpus}'s rows left", "n_validation")
    if given:
        return Split(rest[n_validation:], validation, test)
    return Split(_distinct(outside, seen), validation, test)


@functools.lru_cache(2)  # every replicate splits the same
def _passages(corpus: str, path: str | None) -> list[tuple[Passage, str]]:
    """A corpus' passages, each with the form by which it is compared."""
    return [(passage, normalized(passage.row)) for passage in read_corpus(corpus, path)]


def hash_rows(rows: Sequence[Example]) -> str:
    """SHA-256 of the rows in their order."""
    plain = [row.completion if row.prompt is None else row[1::-1] for row in rows]
    return hashlib.sha256(json.dumps(plain, ensure_ascii=False).encode()).hexdigest()


def _distinct(passages: Sequence[tuple[Passage, str]], seen: set[str]) -> list[Passage]:
    """The passages whose texts are not in `seen`, which then holds them."""
    kept = []
    for passage, text in passages:
        if text not in seen:
            seen.add(text)
            kept.append(passage)
    return kept


def _first(passages: list[Passage], n: int, what: str, argument: str) -> list[Passage]:
    if len(passages) < n:
        raise PoolError(f"{argument}: {what} are {len(passages):,}, fewer than {n:,}: ask for less")
    return passages[:n]


def _copies(
    own: list[Example], corpus: list[Example], n: int, n_pool: int, rng: np.random.Generator
) -> list[tuple[Example, str]]:
    """n copies of a few rows, labelled: the first half exact, the others near and distinct."""
    n_sources = max(MIN_SOURCES, round(SOURCES * n_pool))
    sources = [row for row in own if len(row.text().split()) >= MIN_EDITED_WORDS][:n_sources]
    if len(sources) < n_sources:
        raise PoolError(
            f"n_pool: {len(sources)} of the {len(own)} clean rows have {MIN_EDITED_WORDS} words "
            f"or more, copies are made of {n_sources}: ask for more rows"
        )
    words = words_of([row.text() for row in corpus])
    seen = {normalized(row) for row in own}
    copies: list[tuple[Example, str]] = []
    for i in range(n):
        source = sources[i % n_sources]
        if i < n - n // 2:
            copies.append((source, "duplicate"))
            continue
        tries = (near_duplicate(source, words, rng) for _ in range(_TRIES))
        near = next((row for row in tries if normalized(row) not in seen), None)
        if near is None:
            raise PoolError(f"n_pool: no more different edits of {source!r}: ask for fewer rows")
        seen.add(normalized(near))
        copies.append((near, "near_duplicate"))
    return copies
