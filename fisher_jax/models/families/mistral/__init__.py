"""Mistral: Llama whose queries see a window of positions."""

from fisher_jax.models.families.family import Family
from fisher_jax.models.families.mistral.config import from_gguf, from_json, to_json
from fisher_jax.models.families.sizes import ROTARY_NAMES

FAMILY = Family(
    title="Mistral",
    model_types=("mistral",),
    architecture="mistral",
    transformers_class="MistralForCausalLM",
    names=ROTARY_NAMES,
    from_json=from_json,
    to_json=to_json,
    from_gguf=from_gguf,
    pairs_in_gguf=True,
)
