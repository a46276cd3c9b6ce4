"""SmolLM3: some layers know no positions."""

from fisher_jax.models.families.family import Family
from fisher_jax.models.families.sizes import ROTARY_NAMES
from fisher_jax.models.families.smollm3.config import from_gguf, from_json, to_json

FAMILY = Family(
    title="SmolLM3",
    model_types=("smollm3",),
    architecture="smollm3",
    transformers_class="SmolLM3ForCausalLM",
    names=ROTARY_NAMES,
    from_json=from_json,
    to_json=to_json,
    from_gguf=from_gguf,
    pairs_in_gguf=True,
)
