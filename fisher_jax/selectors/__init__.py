"""Rules that select, all called alike: `SELECTORS[name](emb, n_samples=..., ...)`.

Names, options and rankings stay; a new rule is one decorated function.
"""

# each file adds its rules, in the order of the table
# isort: off
from fisher_jax.selectors import plain, optimal, coverage, scored  # noqa: F401

# isort: on
from fisher_jax.selectors.registry import SELECTORS, Aim, Rule, Terms, UnknownSelectorError, rule
from fisher_jax.selectors.scored import task_similarity, weighted
from fisher_jax.selectors.table import listing

__all__ = [
    "SELECTORS",
    "Aim",
    "Rule",
    "Terms",
    "UnknownSelectorError",
    "listing",
    "rule",
    "task_similarity",
    "weighted",
]
