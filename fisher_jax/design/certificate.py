"""How far a selection may be from the best one: `certify`."""

from collections.abc import Sequence

import numpy as np

from fisher_jax.design.budget import Budget, take
from fisher_jax.design.embeddings import PoolLike, as_embeddings
from fisher_jax.design.evaluation import evaluate, remaining_gains
from fisher_jax.design.groups import Cap
from fisher_jax.design.selection import worth_of


def certify(
    emb: PoolLike,
    ranking: Sequence[int] | np.ndarray,
    ridge: float | int = 1.0,
    *,
    n_samples: int | None = None,
    fraction: float | int | None = None,
    token_budget: float | int | None = None,
    costs: Sequence | np.ndarray | None = None,
    groups: Sequence | np.ndarray | None = None,
    group_cap: Cap | None = None,
    quality: Sequence | np.ndarray | None = None,
    quality_weight: float | int = 1.0,
) -> float:
    """The share of the best f that a selection has at least, from 0 to 1.

    f is monotone and submodular, so no selection T of the budget has more than
    `f(S) + sum_{i in T} gain(i | S)`, which is at most f(S) and the most gain that the budget pays
    for: within caps of groups where examples are counted, else parts of rows included. The share
    is `f(S)` divided by that bound. With `quality` f counts the qualities' worth too. It is often
    more than the 1 - 1/e that greedy is known to have, and holds for any selection, by any rule.

    Args:
        emb: the pool.
        ranking: (n,) indices of it, the selection S.
        ridge: positive.
        n_samples: the budget, as for `select`, in one of three forms.
        fraction: see there.
        token_budget: see there.
        costs: see there.
        groups: see there.
        group_cap: see there.
        quality: see there.
        quality_weight: see there.

    Raises:
        UserError: as `evaluate`, and as `select` of a budget.
    """
    emb = as_embeddings(emb)
    budget = Budget.of(
        emb,
        n_samples=n_samples,
        fraction=fraction,
        token_budget=token_budget,
        costs=costs,
        groups=groups,
        group_cap=group_cap,
    )
    chosen = evaluate(emb, ranking, ridge)
    worth = np.zeros(len(emb)) if quality is None else worth_of(len(emb), quality, quality_weight)
    gains = remaining_gains(emb, ranking, ridge).astype(np.float64) + worth
    gains[chosen.ranking] = 0
    order = np.argsort(-gains / budget.costs, kind="stable")
    if budget.in_examples:
        more = gains[take(budget, order)].sum()
    else:
        spent, gained = (np.cumsum(x[order]) for x in (budget.costs, gains))
        more = np.interp(budget.total, [0, *spent], [0, *gained])
    value = chosen.log_det + worth[chosen.ranking].sum()
    return float(value / (value + more)) if value + more > 0 else 1.0  # nothing is worth anything
