"""Ours beside scikit-learn (fits) and transformers on PyTorch (the rest); parts of `make bench`."""

import time

import jax
import numpy as np
from tqdm import tqdm

from scripts.measuring import clock, median_clock
from scripts.twins import torch_continue, torch_forward, torch_step, torch_twin


def fit_race(n_fits: int = 1000, n_theirs: int = 100) -> dict:
    """Fits of the softmax model (D = 10, L = 20, 2,000 tokens), ours vmapped.

    scikit-learn's default solver goes in a loop, a tenth of the fits timed; ours stop at its
    median gradient.
    """
    from sklearn.linear_model import LogisticRegression

    from fisher_jax.design.softmax_model import fit
    from fisher_jax.util.platforms import here

    rng = np.random.default_rng(0)
    x = rng.standard_normal((n_fits, 2000, 10)).astype(np.float32)
    logits = x @ rng.standard_normal((n_fits, 10, 20)).astype(np.float32)
    labels = np.argmax(logits + rng.gumbel(size=logits.shape), axis=2).astype(np.int32)
    gradients, seconds = [], []
    for i in tqdm(range(n_theirs), desc="scikit-learn's fits"):
        model = LogisticRegression(C=1.0, fit_intercept=False)
        begin = time.perf_counter()
        model.fit(x[i], labels[i])
        seconds.append(time.perf_counter() - begin)
        theta = model.coef_.T.astype(np.float64)
        p = x[i] @ theta
        p = np.exp(p - p.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[np.arange(2000), labels[i]] -= 1
        gradients.append(abs(x[i].T @ p + theta).max() / 2000)
    tol = float(np.median(gradients))
    ones = np.ones(2000, np.float32)
    run = jax.jit(
        lambda x, y: jax.lax.map(
            lambda xy: fit(xy[0], xy[1], ones, 20, 1.0, tol), (x, y), batch_size=here().fits
        )
    )
    run(x, labels)
    ours = median_clock(lambda: run(x, labels))
    theirs = float(np.mean(seconds)) * n_fits
    return {
        "ours_s": ours,
        "scikit_learn_s": theirs,
        "speedup": theirs / ours,
        "gradient_scikit_learn": tol,
        "gradient_ours": float(np.median(run(x, labels).gradient)),
    }


def embedding_race() -> dict:
    """Tokens/s of SmolLM2's hidden states, ours and transformers', on equal batches."""
    from flax import nnx

    from experiments.corpora.corpora import shakespeare
    from fisher_jax.models import load_model
    from fisher_jax.models.embed import hidden_states
    from fisher_jax.util.platforms import here

    model, theirs = load_model("smollm2-135m"), torch_twin()
    graph, weights = nnx.split(model.module)
    rows = [row["text"] for row in shakespeare()]
    order = np.random.default_rng(0).permutation(len(rows))[:2000]
    ids = model.tokenizer([rows[i] for i in order])["input_ids"]
    ids.sort(key=len, reverse=True)
    batches = []
    while ids:  # as `embed` has them by default
        size = max(1, here().forward_tokens // len(ids[0]))
        group, ids = ids[:size], ids[size:]
        padded = np.zeros((len(group), -(-len(group[0]) // 4) * 4), np.int32)
        for row, tokens in zip(padded, group, strict=True):
            row[: len(tokens)] = tokens
        batches.append(padded)
    real = {id(b): int((b > 0).sum()) for b in batches}

    def run_jax(b):
        return np.asarray(hidden_states(graph, weights, b))

    ratios, ours_s, theirs_s = [], 0.0, 0.0
    for b in tqdm(batches[::6], desc="embedding race"):
        run_jax(b)
        torch_forward(theirs, b)
        ours = median_clock(lambda b=b: run_jax(b))
        other = median_clock(lambda b=b: torch_forward(theirs, b))
        ratios.append(other / ours)
        ours_s, theirs_s = ours_s + ours, theirs_s + other
    tokens = sum(real[id(b)] for b in batches[::6])
    return {
        "tokens_per_s": tokens / ours_s,
        "tokens_per_s_torch": tokens / theirs_s,
        "speedup": theirs_s / ours_s,
        "speedup_by_batch": ratios,
    }


BLOCK = 4  # training steps of one library in a row


def training_race(sequences: int = 8, length: int = 64) -> dict:
    """Tokens/s of a full fine-tuning step of SmolLM2 (AdamW, clipping), ours and PyTorch's.

    As in training, steps follow each other: blocks of ours and of PyTorch's take turns, and the
    first of a block, which is slower after the other's, isn't counted.
    """
    from fisher_jax.models import TokenizedRows, load_model
    from fisher_jax.training.finetune import TrainOptions, finetune

    model = load_model("smollm2-135m")
    rng = np.random.default_rng(0)
    ids = rng.integers(model.module.config.vocab, size=(sequences, length + 1)).astype(np.int32)
    rows = TokenizedRows.after([*ids])
    run_torch = torch_step(torch_twin(), ids)

    ours_s, theirs_s, last = [], [], [0.0]

    def between_steps(step: int, steps: int, loss: float) -> None:
        if (step - 1) % BLOCK:
            ours_s.append(time.perf_counter() - last[0])
        if step % BLOCK == 0:
            theirs_s.extend([clock(run_torch) for _ in range(BLOCK)][1:])
        last[0] = time.perf_counter()

    options = TrainOptions(
        "full", learning_rate=1e-5, epochs=3 * BLOCK, sequences=sequences, sequence_length=length
    )
    finetune(model, rows, options, on_step=between_steps)
    ours, other = (float(np.median(s)) for s in (ours_s, theirs_s))
    tokens = sequences * length
    return {
        "tokens_per_s": tokens / ours,
        "tokens_per_s_torch": tokens / other,
        "speedup": other / ours,
    }


def generation_race(prompts: int = 16, prompt_tokens: int = 8, new_tokens: int = 64) -> dict:
    """New tokens/s of greedy decoding in one batch, ours and transformers'."""
    from fisher_jax.models import load_model
    from fisher_jax.models.generate import generate_ids

    model, theirs = load_model("smollm2-135m"), torch_twin()
    rng = np.random.default_rng(0)
    ids = rng.integers(1000, model.module.config.vocab, size=(prompts, prompt_tokens))

    def run_jax() -> None:
        generate_ids(model.module, ids.tolist(), max_new_tokens=new_tokens)

    def run_torch() -> None:
        torch_continue(theirs, ids, new_tokens)

    run_jax()
    run_torch()
    both = [(clock(run_jax), clock(run_torch)) for _ in tqdm(range(3), desc="generation race")]
    ours, other = np.median(both, axis=0)
    tokens = prompts * new_tokens
    return {
        "tokens_per_s": tokens / ours,
        "tokens_per_s_torch": tokens / other,
        "speedup": other / ours,
    }
