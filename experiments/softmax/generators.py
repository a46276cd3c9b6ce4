"""Feature generators of the synthetic problem: token embeddings of a pool, and their labels.

All features are scaled to a mean squared norm of 1, so a planted Theta with entries N(0, s^2) gives
logits of standard deviation s whatever the generator.
"""

import functools
import hashlib
import json
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tqdm import tqdm

from experiments.corpora.corpora import cache_folder, shakespeare
from experiments.softmax.study import Problem
from fisher_jax.design import TokenEmbeddings
from fisher_jax.design.embeddings_file import read_embeddings
from fisher_jax.models import LanguageModel, load_model
from fisher_jax.models.embed import embed
from fisher_jax.models.load import SMOLLM2
from fisher_jax.util.files import replacing

Features = Callable[[np.random.Generator, Any, np.ndarray], np.ndarray]
CORPUS_ROWS, CORPUS_DIM = 6000, 576
MAX_LENGTH = 65  # tokens of a sentence, the first of which nothing predicts


def make_problem(options: Any, replicate: int) -> Problem:
    """A fresh pool with a fresh Theta; the same (seed, replicate) gives the same bytes."""
    rng = np.random.default_rng([options.seed, replicate])
    theta = options.theta_scale * rng.standard_normal((options.dim, options.n_labels))
    theta = theta.astype(np.float32)
    lengths = pool_lengths(options, rng)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    if options.generator == "autoregressive":
        tokens, labels = autoregressive(rng, options, lengths, theta)
        first = TokenEmbeddings(tokens[offsets[:-1]], np.arange(len(lengths) + 1))
    else:
        tokens = GENERATORS[options.generator](rng, options, lengths)
        tokens /= np.sqrt(np.mean(np.sum(tokens**2, axis=1)))
        labels, first = draw(rng, tokens @ theta), None  # no label influences a token
    tokens = tokens.astype(np.float32)
    if options.labels == "redrawn":
        labels = draw(rng, tokens @ theta)
    emb = TokenEmbeddings(tokens, offsets)
    return Problem(emb, labels, theta, first or emb)


def pool_lengths(options: Any, rng: np.random.Generator) -> np.ndarray:
    """All `mean_length`, or 1 to 2 mean_length - 1, each equally often: one compilation."""
    if options.generator == "language":
        stratified = np.sort(_language_pool(options.dim).lengths)
        at = np.linspace(0, len(stratified) - 1, options.n_examples).round().astype(int)
        return rng.permutation(stratified[at])
    if options.lengths == "fixed":
        return np.full(options.n_examples, options.mean_length)
    return rng.permutation(np.resize(np.arange(1, 2 * options.mean_length), options.n_examples))


def draw(rng: np.random.Generator, logits_TxL: np.ndarray) -> np.ndarray:
    """One label a token from its softmax, by the largest logit plus Gumbel noise."""
    return np.argmax(logits_TxL + rng.gumbel(size=logits_TxL.shape), axis=1)


def gaussian(rng: np.random.Generator, options: Any, lengths: np.ndarray) -> np.ndarray:
    """x ~ N(0, I): the paper's setting as far as we know it."""
    return rng.standard_normal((lengths.sum(), options.dim))


def anisotropic(rng: np.random.Generator, options: Any, lengths: np.ndarray) -> np.ndarray:
    """x ~ N(0, diag(1 / k^2)), k = 1..D: most energy in few directions, as language models have."""
    return gaussian(rng, options, lengths) / np.arange(1, options.dim + 1)


def zipf(rng: np.random.Generator, options: Any, lengths: np.ndarray) -> np.ndarray:
    """`n_types` fixed vectors N(0, I); the k-th most frequent is drawn with p ~ 1 / k."""
    types = rng.standard_normal((options.n_types, options.dim))
    p = 1 / np.arange(1, options.n_types + 1)
    return types[rng.choice(options.n_types, lengths.sum(), p=p / p.sum())]


def prefix(rng: np.random.Generator, options: Any, lengths: np.ndarray) -> np.ndarray:
    """x_j = mean of u_1..u_j, u ~ N(0, I): later tokens of a sentence are smaller and alike."""
    parts = np.split(gaussian(rng, options, lengths), np.cumsum(lengths)[:-1])
    return np.concatenate([np.cumsum(u, axis=0) / np.arange(1, len(u) + 1)[:, None] for u in parts])


def autoregressive(
    rng: np.random.Generator, options: Any, lengths: np.ndarray, theta_DxL: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """x_1 is a random label's unit vector, x_{j+1} that of the label drawn at j: a Markov chain."""
    types = rng.standard_normal((options.n_labels, options.dim))
    types /= np.linalg.norm(types, axis=1, keepdims=True)
    logits = types @ theta_DxL
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    history = rng.integers(options.n_labels, size=len(lengths))
    seen = np.zeros(lengths.sum(), np.int64)
    labels = np.zeros(lengths.sum(), np.int64)
    for j in range(lengths.max()):
        alive = lengths > j
        seen[starts[alive] + j] = history[alive]
        history = draw(rng, logits[history])
        labels[starts[alive] + j] = history[alive]
    return types[seen], labels


def language(rng: np.random.Generator, options: Any, lengths: np.ndarray) -> np.ndarray:
    """SmolLM2's embeddings of Shakespeare's sentences, projected to D principal directions."""
    pool = _language_pool(options.dim)
    of_length = {n: rng.permutation(np.flatnonzero(pool.lengths == n)) for n in set(lengths)}
    used = dict.fromkeys(of_length, 0)
    rows = []
    for n in lengths:
        rows.append(pool[of_length[n][used[n]]])
        used[n] += 1
    return np.concatenate(rows).astype(np.float64)


_EMBEDDING = threading.Lock()  # replicates run side by side; one of them embeds


def _language_pool(dim: int) -> TokenEmbeddings:
    with _EMBEDDING:
        return _projected_corpus(dim)


@functools.lru_cache(1)
def _projected_corpus(dim: int) -> TokenEmbeddings:
    full = _embedded_corpus()
    centred = full.tokens - full.tokens.mean(axis=0)
    _, vectors = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    projected = centred @ vectors[:, ::-1][:, :dim].astype(np.float32)
    return TokenEmbeddings(projected, full.offsets)


def _embedded_corpus() -> TokenEmbeddings:
    """6,000 sentences of at most 64 tokens, embedded once and kept beside downloaded corpora."""
    sentences = [row["text"] for row in shakespeare()]
    order = np.random.default_rng(0).permutation(len(sentences))[:CORPUS_ROWS]
    return _embedded([sentences[i] for i in order], load_model(SMOLLM2), MAX_LENGTH)


def _embedded(texts: list[str], model: LanguageModel, max_length: int) -> TokenEmbeddings:
    """Embeddings from a file that is named by what they were made of, made where it is missing."""
    made_of = [model.weights_sha256, model.tokenizer_sha256, max_length, texts]
    digest = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
    cached = cache_folder() / f"embeddings-{digest[:32]}.safetensors"
    if cached.exists():
        return read_embeddings(cached)
    with tqdm(total=len(texts), desc="embedding Shakespeare", unit="row") as bar:

        def show(done: int) -> None:
            bar.update(done - bar.n)

        emb = embed(texts, model, max_length=max_length, on_progress=show)
    cached.parent.mkdir(parents=True, exist_ok=True)
    with replacing(cached) as temporary:
        save_file({"tokens": emb.tokens, "offsets": emb.offsets}, temporary)
    return emb


GENERATORS: dict[str, Features] = {
    "gaussian": gaussian,
    "anisotropic": anisotropic,
    "zipf": zipf,
    "prefix": prefix,
    "autoregressive": autoregressive,  # pyright: ignore[reportAssignmentType]
    "language": language,
}
