"""Qwen 3: norms of each head's queries and keys."""

from fisher_jax.models.families.family import Family
from fisher_jax.models.families.qwen3.config import from_gguf, from_json, to_json
from fisher_jax.models.families.sizes import QUERY_KEY_NAMES, ROTARY_NAMES

FAMILY = Family(
    title="Qwen3",
    model_types=("qwen3",),
    architecture="qwen3",
    transformers_class="Qwen3ForCausalLM",
    names=ROTARY_NAMES | QUERY_KEY_NAMES,
    from_json=from_json,
    to_json=to_json,
    from_gguf=from_gguf,
)
