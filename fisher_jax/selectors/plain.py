"""Selectors that look at no embedding: in random order, and by length."""

import numpy as np

from fisher_jax.design import Budget, Ranking, TokenSource, take
from fisher_jax.selectors.registry import Terms, rule
from fisher_jax.util.streams import stream


@rule(
    "random rows",
    streams=True,
)
def uniform(emb: TokenSource, budget: Budget, terms: Terms) -> Ranking:
    """Rows in random order: what every other selector must beat."""
    return take(budget, stream(terms.seed, "uniform").permutation(len(emb)))


@rule(
    "rows of the most tokens",
    streams=True,
)
def longest(emb: TokenSource, budget: Budget, terms: Terms) -> Ranking:
    """Rows by their number of tokens, most first: the length part of a criterion alone."""
    return take(budget, np.argsort(-emb.lengths, kind="stable"))
