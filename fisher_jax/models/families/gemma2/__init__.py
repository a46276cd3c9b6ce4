"""Gemma 2: norms before and after, capped logits, every other layer local."""

from fisher_jax.models.families.family import Family
from fisher_jax.models.families.gemma2.config import from_gguf, from_json, to_json
from fisher_jax.models.families.sizes import GEMMA_NAMES

FAMILY = Family(
    title="Gemma 2",
    model_types=("gemma2",),
    architecture="gemma2",
    transformers_class="Gemma2ForCausalLM",
    names=GEMMA_NAMES,
    from_json=from_json,
    to_json=to_json,
    from_gguf=from_gguf,
    offset_in_gguf=True,
)
