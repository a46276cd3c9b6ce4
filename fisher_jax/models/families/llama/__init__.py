"""Llama 1 to 3 and what is built as they are (SmolLM2, TinyLlama, ...)."""

from fisher_jax.models.families.family import Family
from fisher_jax.models.families.llama.config import from_gguf, from_json, to_json
from fisher_jax.models.families.sizes import ROTARY_NAMES

FAMILY = Family(
    title="Llama",
    model_types=("llama",),
    architecture="llama",
    transformers_class="LlamaForCausalLM",
    names=ROTARY_NAMES,
    from_json=from_json,
    to_json=to_json,
    from_gguf=from_gguf,
    pairs_in_gguf=True,
)
