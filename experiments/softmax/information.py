"""Does maximising FisherSFT's d x d bound maximise the exact information?"""

import functools
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from experiments.softmax.generators import make_problem
from experiments.softmax.study import Problem, budgets_of, rank
from fisher_jax.design import Budget, TokenEmbeddings, take
from fisher_jax.design.softmax_model import information

_exact = jax.jit(functools.partial(information, reduced=True))


def study(options: Any, setting: dict) -> list[dict]:
    """The bound and the exact log-determinant of selections and of random subsets.

    At equal tokens (equal examples where all lengths are equal). `bound` is
    `(L - 1) log det(ridge I + sum x x^T)`, `exact` is `log det(ridge I + H_S)` with the reduced
    H_S, both less their value at S = {}, in nats.
    """
    rows = []
    for replicate in tqdm(range(options.replicates), desc="information", unit="replicate"):
        problem = make_problem(options, replicate)
        budgets = budgets_of(problem.emb, options.budgets)
        equal = "tokens" if "tokens" in budgets else "examples"
        room = most_tokens(problem.emb, budgets[equal][-1])
        for n, budget in zip(options.budgets, budgets[equal], strict=True):
            rng = np.random.default_rng([options.seed, replicate, n])
            subsets = [
                ("random", take(budget, rng.permutation(len(problem.emb))))
                for _ in range(options.n_subsets)
            ]
            subsets += [
                (name, rank(problem, name, budget, options, replicate))
                for name in options.selectors
            ]
            rows += [
                {"selector": name, "equal": equal, "n": n, "replicate": replicate}
                | information_of(problem, chosen, options.ridge, room)
                for name, chosen in subsets
            ]
    return rows


def most_tokens(emb: TokenEmbeddings, budget: Budget) -> int:
    """No set of rows that the budget pays for has more tokens."""
    return int(budget.total * np.max(emb.lengths / budget.costs))


def information_of(
    problem: Problem, chosen: np.ndarray, ridge: float, room: int
) -> dict[str, float]:
    """The bound and the exact information of a set of rows, in float64.

    The tokens are padded to `room`, with weights of zero: one compiled program for all sets.
    """
    emb = problem.emb
    x = np.concatenate([emb[i] for i in chosen]).astype(np.float64)
    assert problem.theta is not None  # the synthetic problem plants it
    padded = np.zeros((room, emb.dim))
    padded[: len(x)] = x
    with jax.enable_x64(True):
        weights = (np.arange(room) < len(x)).astype(np.float64)
        h = np.asarray(_exact(problem.theta.astype(np.float64), padded, weights))
    bound = _log_det_over_ridge(x.T @ x, ridge) * (problem.theta.shape[1] - 1)
    return {"bound": bound, "exact": _log_det_over_ridge(h, ridge), "tokens": len(x)}


def _log_det_over_ridge(matrix: np.ndarray, ridge: float) -> float:
    return float(np.linalg.slogdet(np.eye(len(matrix)) + matrix / ridge)[1])
