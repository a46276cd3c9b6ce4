"""Qwen 2 and 2.5: biases of queries, keys and values."""

from fisher_jax.models.families.family import Family
from fisher_jax.models.families.qwen2.config import from_gguf, from_json, to_json
from fisher_jax.models.families.sizes import ROTARY_NAMES

FAMILY = Family(
    title="Qwen2",
    model_types=("qwen2",),
    architecture="qwen2",
    transformers_class="Qwen2ForCausalLM",
    names=ROTARY_NAMES,
    from_json=from_json,
    to_json=to_json,
    from_gguf=from_gguf,
)
