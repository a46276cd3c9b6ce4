"""Rules that select, all called alike: `registry` has those of the pool alone, `scored` others.

Names, options and rankings stay; a new rule is one function and one line of a table.
"""

from fisher_jax.selectors.registry import SELECTORS
from fisher_jax.selectors.rule import Selector
from fisher_jax.selectors.scored import MODEL_SELECTORS

__all__ = [
    "MODEL_SELECTORS",
    "SELECTORS",
    "Selector",
]
