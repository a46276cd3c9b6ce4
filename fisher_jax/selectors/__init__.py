"""Rules that select, all called alike: `SELECTORS[name](emb, n_samples=..., ...)`.

Names, options and rankings stay; a new rule is one decorated function.
"""

# isort: off  the order of the table
from fisher_jax.selectors import coverage, optimal, plain, scored  # noqa: F401  each adds its rules

# isort: on
from fisher_jax.selectors.rule import SELECTORS, Rule, Terms, UnknownSelectorError, rule
from fisher_jax.selectors.scored import weighted
from fisher_jax.selectors.table import listing

__all__ = [
    "SELECTORS",
    "Rule",
    "Terms",
    "UnknownSelectorError",
    "listing",
    "rule",
    "weighted",
]
