"""Gemma 3 (text): as Gemma 2, but norms of queries and keys, and two ropes."""

from fisher_jax.models.families.family import Family
from fisher_jax.models.families.gemma3.config import from_gguf, from_json, to_json
from fisher_jax.models.families.sizes import GEMMA_NAMES, QUERY_KEY_NAMES

FAMILY = Family(
    title="Gemma 3",
    model_types=("gemma3_text",),
    architecture="gemma3",
    transformers_class="Gemma3ForCausalLM",
    names=GEMMA_NAMES | QUERY_KEY_NAMES,
    from_json=from_json,
    to_json=to_json,
    from_gguf=from_gguf,
    offset_in_gguf=True,
)
