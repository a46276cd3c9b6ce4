"""Language models: forward passes of all families, loading by name, embedding, generation.

Results for a seed stay as they are; how the work is cut into batches and compiled may change.
"""

from fisher_jax.models.activations import activation_bytes
from fisher_jax.models.decoder import Decoder, capped, packed_rows, project, stack
from fisher_jax.models.embed import Pass, forward, last_states, passes_of, run_passes, standardize
from fisher_jax.models.errors import ModelError
from fisher_jax.models.load import DTYPES, LanguageModel, file_sha256, load_model
from fisher_jax.models.tokenize import Positions, TokenizedRows, shown, tokenize, word

__all__ = [
    "DTYPES",
    "Decoder",
    "LanguageModel",
    "ModelError",
    "Pass",
    "Positions",
    "TokenizedRows",
    "activation_bytes",
    "capped",
    "file_sha256",
    "forward",
    "last_states",
    "load_model",
    "packed_rows",
    "passes_of",
    "project",
    "run_passes",
    "shown",
    "stack",
    "standardize",
    "tokenize",
    "word",
]
