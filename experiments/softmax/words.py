"""The synthetic problem's study on real sentences and pre-trained word embeddings.

`python -m experiments.words experiment=paper`. Features are embeddings of the words so far; labels
come from a planted Theta, or are the corpus' next words.
"""

import functools
import re
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.corpora.corpora import shakespeare
from experiments.run.results import Row, run_grid, settings_of
from experiments.softmax.generators import draw
from experiments.softmax.study import (
    Problem,
    StudyOptions,
    needs_theta,
    one_of,
    positive,
    study,
)
from experiments.softmax.word_vectors import read_vectors
from fisher_jax.design import TokenEmbeddings
from fisher_jax.util.errors import UserError

_READING = threading.Lock()  # replicates run side by side; one of them reads
_WORD = re.compile(r"[a-z]+")


@dataclass
class Options(StudyOptions):
    """Options of the word-embedding experiment; `conf/words/config.yaml` explains each."""

    vectors: str = "glove-6b-50d"
    task: str = "planted"
    history: str = "mean"
    decay: float = 0.5
    max_tokens: int = 40
    n_test_tokens: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "task", ["planted", "next_word"])
        one_of(self, "history", ["last", "mean", "exponential"])
        positive(self, "max_tokens n_test_tokens")
        if not 0 < self.decay < 1:
            raise UserError(f"decay must be between 0 and 1, got {self.decay}")
        if "fisher_prompt" in self.selectors:
            raise UserError(
                "selectors has fisher_prompt, but these sentences have no prompt: leave it out"
            )
        oracles = [name for name in self.selectors if needs_theta(name)]
        if self.task == "next_word" and oracles:
            raise UserError(
                f"selectors has {', '.join(oracles)}, for which task=next_word has no planted "
                "Theta: leave it out"
            )


class Corpus(NamedTuple):
    """Every sentence's features and next words (index into the vocabulary), flat."""

    emb: TokenEmbeddings
    labels: np.ndarray


@functools.lru_cache(1)
def sentences() -> list[list[str]]:
    """Shakespeare's sentences as lower-case words."""
    return [_WORD.findall(row["text"].lower()) for row in shakespeare()]


@functools.lru_cache(1)  # large; tasks, widths and numbers of labels share it
def features(
    vectors: str, history: str, decay: float
) -> tuple[list[np.ndarray], list[list[str]], list[str]]:
    """Of each sentence the feature before each of its words but the first, and those words.

    Words without a vector are left out, and sentences with fewer than two words then. The third is
    all words that have a vector, the most frequent first.
    """
    counts = Counter(word for words in sentences() for word in words)
    of_word = read_vectors(vectors, set(counts))
    known = ([word for word in words if word in of_word] for words in sentences())
    kept = [words for words in known if len(words) > 1]
    x = [_history(np.stack([of_word[w] for w in words[:-1]]), history, decay) for words in kept]
    frequent = [word for word, _ in counts.most_common() if word in of_word]
    return x, [words[1:] for words in kept], frequent


@functools.lru_cache(4)
def corpus(
    vectors: str, task: str, history: str, decay: float, dim: int, n_labels: int, max_tokens: int
) -> Corpus:
    """Features of the words before each position, reduced to D principal directions.

    With task `next_word` only positions whose word is one of
    the L most frequent count, with `planted` all but the first do. Sentences without a position
    are left out, longer ones cut at `max_tokens` positions.
    """
    of_sentence, nexts, frequent = features(vectors, history, decay)
    label_of = {word: k for k, word in enumerate(frequent[:n_labels])}
    width = of_sentence[0].shape[1]
    if dim > width:
        raise UserError(f"dim must be at most {width}, the width of {vectors}, got {dim}")
    parts, labels, lengths = [], [], []
    for x, words in zip(of_sentence, nexts, strict=True):
        y = np.array([label_of.get(w, -1) for w in words])
        keep = np.flatnonzero(y >= 0 if task == "next_word" else y > -2)[:max_tokens]
        if len(keep):
            parts.append(x[keep])
            labels.append(y[keep])
            lengths.append(len(keep))
    x = np.concatenate(parts).astype(np.float64)
    x -= x.mean(axis=0)
    _, directions = np.linalg.eigh(x.T @ x)
    x = x @ directions[:, ::-1][:, :dim]
    x /= np.sqrt(np.mean(np.sum(x**2, axis=1)))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Corpus(TokenEmbeddings(x.astype(np.float32), offsets), np.concatenate(labels))


def _history(vectors_MxD: np.ndarray, history: str, decay: float) -> np.ndarray:
    """The feature after each word: its vector, or a mean of those so far, the newest heaviest."""
    if history == "last":
        return vectors_MxD
    count = np.arange(len(vectors_MxD))
    weights = np.tril(np.ones((len(count), len(count))))
    if history == "exponential":
        weights = np.tril(decay ** np.maximum(count[:, None] - count, 0))
    return (weights / weights.sum(axis=1, keepdims=True)) @ vectors_MxD


def corpus_of(options: Options) -> Corpus:
    """The corpus of an experiment's options, read once."""
    with _READING:
        return corpus(
            options.vectors,
            options.task,
            options.history,
            options.decay,
            options.dim,
            options.n_labels,
            options.max_tokens,
        )


def check_corpus(options: Options) -> None:
    """Refuse a pool of more than half of the sentences; the rest is for the test."""
    most = len(corpus_of(options).emb) // 2
    if options.n_examples > most:
        raise UserError(f"n_examples must be at most {most}, half of the corpus")


def make_problem(options: Options, replicate: int) -> Problem:
    """A fresh pool of real sentences, drawn by length so that all replicates have one shape."""
    rng = np.random.default_rng([options.seed, replicate])
    emb, next_words = corpus_of(options)
    chosen = _stratified(emb.lengths, options.n_examples, rng)
    rest = rng.permutation(np.setdiff1d(np.arange(len(emb)), chosen))
    tokens = np.concatenate([emb[i] for i in chosen])
    offsets = np.concatenate([[0], np.cumsum(emb.lengths[chosen])])
    if options.task == "planted":
        theta = options.theta_scale * rng.standard_normal((options.dim, options.n_labels))
        labels = draw(rng, tokens @ theta)
        return Problem(TokenEmbeddings(tokens, offsets), labels, theta.astype(np.float32))
    test_x = np.concatenate([emb[i] for i in rest])[: options.n_test_tokens]
    test_labels = np.concatenate([_own(next_words, emb, i) for i in rest])[: options.n_test_tokens]
    labels = np.concatenate([_own(next_words, emb, i) for i in chosen])
    return Problem(TokenEmbeddings(tokens, offsets), labels, None, None, (test_x, test_labels))


def _own(values: np.ndarray, emb: TokenEmbeddings, i: int) -> np.ndarray:
    return values[emb.offsets[i] : emb.offsets[i + 1]]


def _stratified(lengths: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """n rows whose lengths are the n quantiles of all lengths, in random order."""
    order = rng.permutation(len(lengths))
    by_length = order[np.argsort(lengths[order], kind="stable")]
    wanted, counts = np.unique(
        np.sort(lengths)[np.linspace(0, len(lengths) - 1, n).round().astype(int)],
        return_counts=True,
    )
    starts = np.searchsorted(lengths[by_length], wanted)
    rows = [by_length[s : s + c] for s, c in zip(starts, counts, strict=True)]
    return rng.permutation(np.concatenate(rows))


def curve(options: Options, setting: Row) -> list[Row]:
    """Errors against n."""
    return study(options, setting, make_problem)


def run(options: Options, folder: Path) -> list[Row]:
    """Rows of all settings; see `run_grid`.

    Raises:
        ValueError: vectors that are too narrow or sentences that are too few, before any work; an
            option that would do nothing.
    """
    given = options.decay != Options.decay
    if given and options.history != "exponential" and "history" not in options.grid:
        raise UserError(f"decay is for history=exponential, history={options.history} has none")
    for _, own in settings_of(options):
        check_corpus(own)
    return run_grid(options, folder, curve, by_selector=True)
