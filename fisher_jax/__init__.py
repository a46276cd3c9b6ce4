"""Choose the examples to fine-tune on by their Fisher information."""

from fisher_jax.design.embeddings import TokenEmbeddings
from fisher_jax.design.selection import FisherSelector, Selection, evaluate, select
from fisher_jax.models.embed import embed
from fisher_jax.selectors import registry as baselines
from fisher_jax.selectors.registry import SELECTORS

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
