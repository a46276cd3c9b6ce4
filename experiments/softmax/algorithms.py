"""FisherSFT's two algorithms as the paper has them, in NumPy: what ours is timed against."""

import time
from collections.abc import Callable

import numpy as np

from fisher_jax.design import TokenEmbeddings


def algorithm_1(
    emb: TokenEmbeddings, n_samples: int, *, steps: int | None = None, candidates: int | None = None
) -> tuple[list[int], float]:
    """One D x D log-determinant for every candidate at every step.

    Returns:
        The picks, and seconds for `n_samples` steps. With `steps` and `candidates` only so many
        are timed, evenly spread, and the seconds extrapolated; the picks are then incomplete.
    """
    v, taken = np.eye(emb.dim), np.zeros(len(emb), bool)
    picks, timed, evaluated = [], 0.0, 0
    for _ in range(min(n_samples, steps or n_samples)):
        rest = np.flatnonzero(~taken)
        some = rest if candidates is None else rest[:: max(1, len(rest) // candidates)]
        begin = time.perf_counter()
        gains = [np.linalg.slogdet(v + emb[i].T @ emb[i])[1] for i in some]
        timed += time.perf_counter() - begin
        evaluated += len(some)
        picks.append(int(some[np.argmax(gains)]))
        taken[picks[-1]] = True
        v += emb[picks[-1]].T @ emb[picks[-1]]
    in_all = sum(len(emb) - k for k in range(n_samples))
    return picks, timed / evaluated * in_all


def algorithm_2(
    emb: TokenEmbeddings, n_samples: int, on_step: Callable[[], object] = lambda: None
) -> tuple[list[int], float]:
    """Linear scan over cached gains, one D x D log-determinant a re-evaluation; picks, seconds."""
    v, picks = np.eye(emb.dim), []
    gains = np.full(len(emb), np.inf)
    begin = time.perf_counter()
    for _ in range(n_samples):
        base, best, pick = np.linalg.slogdet(v)[1], -np.inf, -1
        for i in np.flatnonzero(gains > -np.inf):
            if gains[i] > best:
                gains[i] = np.linalg.slogdet(v + emb[i].T @ emb[i])[1] - base
                if gains[i] > best:
                    best, pick = gains[i], i
        picks.append(int(pick))
        gains[pick] = -np.inf
        v += emb[pick].T @ emb[pick]
        on_step()
    return picks, time.perf_counter() - begin
