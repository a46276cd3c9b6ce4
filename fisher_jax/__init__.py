"""Choose the examples to fine-tune on by their Fisher information."""

from fisher_jax.design import FisherSelector, Selection, TokenEmbeddings, evaluate, select
from fisher_jax.models.embed import embed
from fisher_jax.selectors import SELECTORS
from fisher_jax.selectors import registry as baselines

__all__ = [
    "SELECTORS",
    "FisherSelector",
    "Selection",
    "TokenEmbeddings",
    "baselines",
    "embed",
    "evaluate",
    "select",
]
