"""Greedy selection that looks at fewer rows than the exact one, and what it guarantees."""

import math

import numpy as np

from fisher_jax.design.budget import Budget
from fisher_jax.design.embeddings import TokenSource
from fisher_jax.design.fresh_root import REFRESH, fresh_root
from fisher_jax.design.precision import in_precision
from fisher_jax.design.ranking import Selection
from fisher_jax.design.streaming import Stream
from fisher_jax.util.errors import UserError
from fisher_jax.util.progress import OnProgress
from fisher_jax.util.streams import stream


def stochastic_greedy(
    emb: TokenSource,
    budget: Budget,
    per: np.ndarray,
    *,
    ridge: float | int,
    seed: int,
    epsilon: float = 0.1,
    on_progress: OnProgress | None = None,
) -> Selection:
    """At each choice the best of `ceil((N / n) log(1 / epsilon))` random rows that are left.

    For a budget of n rows f is at least `1 - 1/e - epsilon` of the best possible, in expectation
    (Mirzasoleiman et al. 2015, arXiv 1409.7938); about N log(1 / epsilon) gains are evaluated,
    whatever n is. With costs n is the most rows that the budget pays for, and nothing is
    guaranteed. A row that no longer fits is not drawn.

    Args:
        emb: the pool; one that is read as it is needed too.
        budget: what may be spent.
        per: (N,) what gains are divided by.
        ridge: positive; V = ridge I before the first choice.
        seed: of the draws, which have a stream of their own.
        epsilon: above 0 and below 1.
        on_progress: called with the budget spent.

    Raises:
        UserError: another epsilon.
    """
    if not 0 < epsilon < 1:
        raise UserError(f"epsilon must be above 0 and below 1, got {epsilon}")
    size = math.ceil(len(emb) / budget.most_examples * math.log(1 / epsilon))
    rng = stream(seed, "fisher_stochastic")
    with in_precision(emb, ridge, budget) as dtype:
        state = Stream(emb, budget, per, None, ridge, dtype)
        while len(left := state.open):
            state.take(state.best_of(rng.choice(left, min(size, len(left)), replace=False)))
            if len(state.ranking) % REFRESH == 0:
                state.root = fresh_root(emb, np.asarray(state.ranking), ridge, dtype)
            if on_progress is not None:
                on_progress(int(state.spent))
        return Selection.of(np.asarray(state.ranking, np.int64), np.asarray(state.gains, dtype))
