"""What a language model says of rows, as numbers: losses, gradients, ratings, and an endpoint.

The numbers' meaning stays; when they are computed, and how many at a time, may change.
"""

from fisher_jax.scoring.endpoint import Endpoint
from fisher_jax.scoring.inputs import BY_ROW, Inputs
from fisher_jax.scoring.quality import ASK_SETTINGS, ask_questions, completions_alone
from fisher_jax.scoring.scores import labels_of, row_means, token_scores

__all__ = [
    "ASK_SETTINGS",
    "BY_ROW",
    "Endpoint",
    "Inputs",
    "ask_questions",
    "completions_alone",
    "labels_of",
    "row_means",
    "token_scores",
]
