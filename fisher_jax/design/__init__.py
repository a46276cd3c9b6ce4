"""Optimal design: token embeddings of a pool, gains of information, budgets, greedy choice.

The public functions stay as they are; the loops, batches and factors behind them may change.
"""

from fisher_jax.design.buckets import ladder
from fisher_jax.design.budget import Budget, Purse, Ranking, budget_in_examples, take
from fisher_jax.design.embeddings import (
    Pooling,
    TokenEmbeddings,
    aligned,
    check_squares,
    check_targets,
)
from fisher_jax.design.fisher_selector import FisherSelector
from fisher_jax.design.i_optimal import least_variance
from fisher_jax.design.linalg import HIGHEST
from fisher_jax.design.randomized import draw_fisher
from fisher_jax.design.selection import (
    LEAST_RIDGE,
    Selection,
    check_ridge,
    evaluate,
    greedily,
    log_dets,
    remaining_gains,
    select,
)

__all__ = [
    "HIGHEST",
    "LEAST_RIDGE",
    "Budget",
    "FisherSelector",
    "Pooling",
    "Purse",
    "Ranking",
    "Selection",
    "TokenEmbeddings",
    "aligned",
    "budget_in_examples",
    "check_ridge",
    "check_squares",
    "check_targets",
    "draw_fisher",
    "evaluate",
    "greedily",
    "ladder",
    "least_variance",
    "log_dets",
    "remaining_gains",
    "select",
    "take",
]
