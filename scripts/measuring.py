"""Clocks and pools that every benchmark shares."""

import time
from collections.abc import Callable

import jax
import numpy as np
from tqdm import tqdm

import fisher_jax as fj

MAX_TOKENS = 64


def clock(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - begin


def median_clock(function: Callable[[], object]) -> float:
    return float(np.median([clock(function) for _ in range(3)]))


def synthetic_pool(n: int, dim: int = 576, seed: int = 0) -> fj.TokenEmbeddings:
    """Lengths (21 tokens on average) and spectrum like the real pool's, for machines without it."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(2.88, 0.65, n).astype(int), 4, MAX_TOKENS)
    scale = (1 + np.arange(dim, dtype=np.float32)) ** -0.75
    tokens = rng.standard_normal((lengths.sum(), dim), np.float32)
    tokens *= scale / np.linalg.norm(scale)
    return fj.TokenEmbeddings(tokens, np.concatenate([[0], lengths.cumsum()]))


def real_pool(n: int, batch_tokens: int | None = None) -> fj.TokenEmbeddings:
    """n sentences of Shakespeare of at most 64 tokens, embedded by SmolLM2."""
    from experiments.corpora.corpora import shakespeare
    from fisher_jax.models import load_model

    model = load_model("smollm2-135m")
    rows = [row["text"] for row in shakespeare()]
    order = np.random.default_rng(0).permutation(len(rows))[: 2 * n]
    ids = model.tokenizer([rows[i] for i in order])["input_ids"]
    texts = [rows[i] for i, tokens in zip(order, ids, strict=True) if len(tokens) <= MAX_TOKENS + 1]
    with tqdm(total=n, desc="embedding the real pool") as bar:
        return fj.embed(
            texts[:n],
            model,
            batch_tokens=batch_tokens,
            on_progress=lambda k: bar.update(k - bar.n) and None,  # pyright: ignore
        )
