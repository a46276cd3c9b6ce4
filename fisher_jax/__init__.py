"""Choose the examples to fine-tune on by their Fisher information."""

from fisher_jax import baselines
from fisher_jax.design.embeddings import TokenEmbeddings
from fisher_jax.design.selection import FisherSelector, Selection, evaluate, select
from fisher_jax.models.embed import embed

__all__ = [
    "FisherSelector",
    "Selection",
    "TokenEmbeddings",
    "baselines",
    "embed",
    "evaluate",
    "select",
]
