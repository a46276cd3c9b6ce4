"""Optimal design: token embeddings of a pool, gains of information, budgets, greedy choice.

The public functions stay as they are; the loops, batches and factors behind them may change. What
computes with JAX is imported when it is first asked for.
"""

from typing import TYPE_CHECKING

from fisher_jax.design.buckets import ladder
from fisher_jax.design.budget import Budget, Criterion, Purse, budget_in_examples, take
from fisher_jax.design.embeddings import (
    Pooling,
    PoolLike,
    TokenEmbeddings,
    TokenSource,
    aligned,
    as_embeddings,
    as_source,
    as_targets,
    check_squares,
    part_of,
    pieces,
)
from fisher_jax.design.groups import Cap
from fisher_jax.design.ranking import Ranking, Selection
from fisher_jax.util.checks import LEAST_RIDGE
from fisher_jax.util.lazy import lazily

if TYPE_CHECKING:
    from fisher_jax.design.approximate import stochastic_greedy
    from fisher_jax.design.certificate import certify
    from fisher_jax.design.evaluation import evaluate, log_dets, remaining_gains, token_gains
    from fisher_jax.design.fisher_selector import FisherSelector
    from fisher_jax.design.i_optimal import least_variance
    from fisher_jax.design.linalg import HIGHEST
    from fisher_jax.design.one_pass import in_one_pass
    from fisher_jax.design.prior import beyond
    from fisher_jax.design.randomized import draw_fisher
    from fisher_jax.design.selection import greedily, select, worth_of
    from fisher_jax.design.two_rounds import in_two_rounds

__all__ = [
    "HIGHEST",
    "LEAST_RIDGE",
    "Budget",
    "Cap",
    "Criterion",
    "FisherSelector",
    "PoolLike",
    "Pooling",
    "Purse",
    "Ranking",
    "Selection",
    "TokenEmbeddings",
    "TokenSource",
    "aligned",
    "as_embeddings",
    "as_source",
    "as_targets",
    "beyond",
    "budget_in_examples",
    "certify",
    "check_squares",
    "draw_fisher",
    "evaluate",
    "greedily",
    "in_one_pass",
    "in_two_rounds",
    "ladder",
    "least_variance",
    "log_dets",
    "part_of",
    "pieces",
    "remaining_gains",
    "select",
    "stochastic_greedy",
    "take",
    "token_gains",
    "worth_of",
]
__getattr__ = lazily(
    __name__,
    {
        "fisher_jax.design.approximate": "stochastic_greedy",
        "fisher_jax.design.certificate": "certify",
        "fisher_jax.design.evaluation": "evaluate log_dets remaining_gains token_gains",
        "fisher_jax.design.fisher_selector": "FisherSelector",
        "fisher_jax.design.i_optimal": "least_variance",
        "fisher_jax.design.linalg": "HIGHEST",
        "fisher_jax.design.one_pass": "in_one_pass",
        "fisher_jax.design.prior": "beyond",
        "fisher_jax.design.randomized": "draw_fisher",
        "fisher_jax.design.selection": "greedily select worth_of",
        "fisher_jax.design.two_rounds": "in_two_rounds",
    },
)
