"""OLMo 2: norms after attention and MLP only, and of all queries and keys."""

from fisher_jax.models.families.family import Family
from fisher_jax.models.families.olmo2.config import from_gguf, from_json, to_json
from fisher_jax.models.families.sizes import POST_NORM_NAMES, QUERY_KEY_NAMES, ROTARY_NAMES

FAMILY = Family(
    title="OLMo 2",
    model_types=("olmo2",),
    architecture="olmo2",
    transformers_class="Olmo2ForCausalLM",
    names=ROTARY_NAMES | POST_NORM_NAMES | QUERY_KEY_NAMES,
    from_json=from_json,
    to_json=to_json,
    from_gguf=from_gguf,
)
