"""Choose the examples to fine-tune on by their Fisher information."""

from fisher_jax import baselines
from fisher_jax.design import TokenEmbeddings
from fisher_jax.embed import embed
from fisher_jax.selection import FisherSelector, Selection, evaluate, select

__all__ = [
    "FisherSelector",
    "Selection",
    "TokenEmbeddings",
    "baselines",
    "embed",
    "evaluate",
    "select",
]
