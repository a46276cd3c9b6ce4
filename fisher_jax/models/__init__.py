"""Language models: forward passes of all families, loading by name, embedding, generation.

Results for a seed stay as they are; how the work is cut into batches and compiled may change.
"""

from fisher_jax.models.activations import activation_bytes
from fisher_jax.models.decoder import Decoder, capped, packed_rows, project, stack
from fisher_jax.models.embed import TokenizedRows, forward, last_states, standardize, tokenize
from fisher_jax.models.errors import ModelError
from fisher_jax.models.load import DTYPES, LanguageModel, file_sha256, load_model

__all__ = [
    "DTYPES",
    "Decoder",
    "LanguageModel",
    "ModelError",
    "TokenizedRows",
    "activation_bytes",
    "capped",
    "file_sha256",
    "forward",
    "last_states",
    "load_model",
    "packed_rows",
    "project",
    "stack",
    "standardize",
    "tokenize",
]
