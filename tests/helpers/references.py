"""Slow, obviously correct float64 NumPy versions of what fisher_jax computes."""

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import norm

from fisher_jax.selectors.density import distance_scale

N, DIM = 40, 6  # of the pool that the fixture `emb` is


def log_det(matrix):
    sign, value = np.linalg.slogdet(matrix)
    assert sign > 0
    return value


def information(examples, chosen, ridge):
    """V = ridge I + sum over the chosen of X^T X."""
    v = ridge * np.eye(examples[0].shape[1])
    for i in chosen:
        x = np.asarray(examples[i], np.float64)
        v += x.T @ x
    return v


def f(examples, chosen, ridge):
    return log_det(information(examples, chosen, ridge)) - examples[0].shape[1] * np.log(ridge)


def algorithm_1(examples, n_samples, ridge, rtol=1e-9):
    """FisherSFT's Algorithm 1, one D x D log-determinant a candidate; ties to the lowest index."""
    ranking, gains = [], []
    for _ in range(n_samples):
        v = information(examples, ranking, ridge)
        gain = np.full(len(examples), -np.inf)
        for i, x in enumerate(examples):
            if i not in ranking:
                gain[i] = log_det(v + np.asarray(x, np.float64).T @ x) - log_det(v)
        best = int(np.flatnonzero(gain >= gain.max() - rtol * abs(gain.max()) - 1e-12)[0])
        ranking.append(best)
        gains.append(gain[best])
    return np.array(ranking), np.array(gains)


def greedy(examples, n_samples, value, per):
    """The largest rise of `value(V)`, V the information so far, divided by `per` of the example."""
    ranking = []
    for _ in range(n_samples):
        base = value(information(examples, ranking, 1.0))
        rise = [
            -np.inf
            if i in ranking
            else (value(information(examples, [*ranking, i], 1.0)) - base) / per[i]
            for i in range(len(examples))
        ]
        ranking.append(int(np.argmax(rise)))
    return ranking


def cost_benefit(examples, budget, costs, ridge):
    """Greedy by gain per cost; what no longer fits is skipped."""
    ranking, gains, spent = [], [], 0.0
    while True:
        v = information(examples, ranking, ridge)
        ratio = np.full(len(examples), -np.inf)
        for i, x in enumerate(examples):
            if i not in ranking and spent + costs[i] <= budget:
                ratio[i] = (log_det(v + np.asarray(x, np.float64).T @ x) - log_det(v)) / costs[i]
        if not np.isfinite(ratio).any():
            return np.array(ranking), np.array(gains)
        best = int(np.argmax(ratio))
        ranking.append(best)
        gains.append(ratio[best] * costs[best])
        spent += costs[best]


def random_pool(seed, n, lengths, dim, dtype=np.float32):
    """Anisotropic token embeddings, as language models have them.

    Each length is as frequent as the next whatever the seed: one compilation for all seeds.
    """
    rng = np.random.default_rng(seed)
    scale = 1 / np.sqrt(1 + np.arange(dim))
    lengths = rng.permutation(np.resize(lengths, n))
    return [(rng.standard_normal((m, dim)) * scale).astype(dtype) for m in lengths]


def exact_kernel_density(points, seed, bandwidth=1.0, n_joined=4):
    """What `kernel_density` estimates, from all N^2 distances c."""
    r = distance_scale(points, bandwidth, n_joined, seed)
    ratio = r / np.maximum(cdist(points, points), 1e-12)
    tail = 2 / (np.sqrt(2 * np.pi) * ratio) * -np.expm1(-(ratio**2) / 2)
    return np.mean((1 - 2 * norm.cdf(-ratio) - tail) ** n_joined, axis=1)
