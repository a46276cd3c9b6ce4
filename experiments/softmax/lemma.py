"""FisherSFT's Lemma 3.1: is its lower bound of the exact information true, and is it near?

Where `diag(p_t) - p_t p_t^T >= gamma I` for all tokens t of S, in the complement of the all-ones
vector (on that vector itself it is 0, and no gamma would do),

    log det H_S >= (L - 1) (log det(sum_t x_t x_t^T) + D log gamma).
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from experiments.softmax.generators import make_problem
from experiments.softmax.study import budgets_of, rank
from fisher_jax.design.softmax_model import information_rows


def study(options: Any, setting: dict) -> list[dict]:
    """Bound, exact information and gamma of selections, at equal examples; see `lemma_of`."""
    rows = []
    for replicate in tqdm(range(options.replicates), desc="lemma", unit="replicate"):
        problem = make_problem(options, replicate)
        assert problem.theta is not None  # the synthetic problem plants it
        for n, budget in zip(
            options.budgets, budgets_of(problem.emb, options.budgets)["examples"], strict=True
        ):
            for name in options.selectors:
                chosen = rank(problem, name, budget, options, replicate)
                x = np.concatenate([problem.emb[i] for i in chosen])
                rows.append(
                    {"selector": name, "equal": "examples", "n": n, "replicate": replicate}
                    | lemma_of(problem.theta, x)
                )
    return rows


def lemma_of(
    theta_DxL: Float[np.ndarray, "D L"], x_TxD: Float[np.ndarray, "T D"]
) -> dict[str, float]:
    """`lemma`, the bound; `log_det` of the exact information; both in nats, without a ridge; gamma.

    gamma is the largest that the lemma may take: the least eigenvalue of any token of x.
    In float64.
    """
    theta, x = theta_DxL.astype(np.float64), x_TxD.astype(np.float64)
    dim, n_labels = theta.shape
    logits = x @ theta
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    covariance = p[:, :, None] * (np.eye(n_labels) - p[:, None, :])
    # the all-ones vector is the eigenvector of 0, so the next eigenvalue is the complement's least
    gamma = float(np.linalg.eigvalsh(covariance)[:, 1].min())
    rows = information_rows(theta, x)
    of_design = float(np.linalg.slogdet(x.T @ x)[1])
    return {
        "gamma": gamma,
        "lemma": (n_labels - 1) * (of_design + dim * float(np.log(gamma))),
        "log_det": float(np.linalg.slogdet(rows.T @ rows)[1]),
        "tokens": len(x),
    }
