"""Choose the examples to fine-tune on by their Fisher information."""

from typing import TYPE_CHECKING

from fisher_jax.util.lazy import lazily

if TYPE_CHECKING:
    from fisher_jax.design import (
        FisherSelector,
        Selection,
        TokenEmbeddings,
        certify,
        evaluate,
        remaining_gains,
        select,
    )
    from fisher_jax.models import load_model
    from fisher_jax.models.embed import embed
    from fisher_jax.models.generate import generate
    from fisher_jax.pipeline import choose
    from fisher_jax.selectors import SELECTORS
    from fisher_jax.training.finetune import finetune

__all__ = [
    "SELECTORS",
    "FisherSelector",
    "Selection",
    "TokenEmbeddings",
    "certify",
    "choose",
    "embed",
    "evaluate",
    "finetune",
    "generate",
    "load_model",
    "remaining_gains",
    "select",
]
__getattr__ = lazily(
    __name__,
    {
        "fisher_jax.design": "FisherSelector Selection TokenEmbeddings certify evaluate "
        "remaining_gains select",
        "fisher_jax.models": "load_model",
        "fisher_jax.models.embed": "embed",
        "fisher_jax.models.generate": "generate",
        "fisher_jax.pipeline": "choose",
        "fisher_jax.selectors": "SELECTORS",
        "fisher_jax.training.finetune": "finetune",
    },
)
