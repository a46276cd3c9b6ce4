"""What a selection keeps of the exact f where it sees less of the embeddings: `make bench` runs it.

Fewer dimensions, by a random projection or by the principal directions, or fewer bits a number.
"""

from typing import Any

import numpy as np
from sklearn.decomposition import PCA

import fisher_jax as fj
from fisher_jax.data.embedding_store import DTYPES
from fisher_jax.design.projection import projected, projection

DIMS = (64, 128, 256)
SEEDS = 5
PART = 10  # one in so many rows is chosen, or one token of so many


def narrow(emb: fj.TokenEmbeddings) -> dict[str, Any]:
    """By budget: f, of all D float32 numbers, of what was chosen by less, over the exact picks'.

    With `common`, the share of the exact picks that was chosen; over seeds the mean, and `least`.
    """
    n = len(emb) // PART
    budgets = {"rows": {"n_samples": n}, "tokens": {"token_budget": len(emb.tokens) // PART}}
    kept = {unit: _kept(emb, budget) for unit, budget in budgets.items()}
    return {"shape": [len(emb), *emb.tokens.shape], "choices": n, "seeds": SEEDS} | kept


def _kept(emb: fj.TokenEmbeddings, budget: dict[str, Any]) -> dict[str, Any]:
    exact = fj.select(emb, **budget).ranking
    most = _f(emb, exact)

    def shares(*rankings: np.ndarray) -> dict[str, float]:
        kept = [_f(emb, ranking) / most for ranking in rankings]
        common = [np.isin(exact, ranking).mean() for ranking in rankings]
        return {
            "share": float(np.mean(kept)),
            "least": float(np.min(kept)),
            "common": float(np.mean(common)),
        }

    def by(narrower: fj.TokenEmbeddings) -> np.ndarray:
        return fj.select(narrower, **budget).ranking

    uniform = fj.SELECTORS["uniform"]
    told = {"uniform": shares(*(uniform(emb, **budget, seed=s).ranking for s in range(SEEDS)))}
    for name in ("float16", "bfloat16"):
        told[name] = shares(by(fj.TokenEmbeddings(emb.tokens.astype(DTYPES[name]), emb.offsets)))
    for to in DIMS:
        drawn = [projected(emb, projection(emb.dim, to, seed)) for seed in range(SEEDS)]
        told[f"projected to {to}"] = shares(*map(by, drawn))
        axes = np.asarray(PCA(to, svd_solver="covariance_eigh").fit(emb.tokens).components_).T
        told[f"principal {to}"] = shares(by(projected(emb, axes)))
    return told


def _f(emb: fj.TokenEmbeddings, ranking: np.ndarray) -> float:
    """f of some rows at a ridge of 1, in float64."""
    x = emb.read(ranking).astype(np.float64)
    return float(np.linalg.slogdet(np.eye(emb.dim) + x.T @ x)[1])
