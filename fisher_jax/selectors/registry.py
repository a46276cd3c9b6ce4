"""Selectors that need no language model: `SELECTORS[name](emb, n_samples=..., seed=...)`.

`rule.Selector` has their one call signature; those that need a model are in `scored`.
"""

import numpy as np

from fisher_jax.design import Budget, Ranking, TokenEmbeddings, take
from fisher_jax.selectors.coverage import (
    badge,
    density,
    k_center,
    prototypes_easy,
    prototypes_hard,
    sensitivity,
)
from fisher_jax.selectors.optimal import (
    exact_information,
    fisher,
    fisher_mixed,
    fisher_per_token,
    fisher_random,
    i_optimal,
    i_optimal_per_token,
    sentence_od,
)
from fisher_jax.selectors.rule import Selector
from fisher_jax.util.streams import stream


def uniform(emb: TokenEmbeddings, budget: Budget, *, seed: int) -> Ranking:
    """Rows in random order: what every other selector must beat."""
    return take(budget, stream(seed, "uniform").permutation(len(emb)))


def longest(emb: TokenEmbeddings, budget: Budget) -> Ranking:
    """Rows by their number of tokens, most first: the length part of a criterion alone."""
    return take(budget, np.argsort(-emb.lengths, kind="stable"))


SELECTORS: dict[str, Selector] = {
    rule.__name__: Selector(rule.__name__, rule)
    for rule in (
        uniform,
        longest,
        fisher,
        fisher_per_token,
        fisher_mixed,
        fisher_random,
        i_optimal,
        i_optimal_per_token,
        sentence_od,
        density,
        sensitivity,
        prototypes_easy,
        prototypes_hard,
        k_center,
        badge,
        exact_information,
    )
}
