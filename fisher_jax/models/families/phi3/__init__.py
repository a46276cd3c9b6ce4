"""Phi 3 and Phi-4-mini: queries, keys and values in one tensor, gate and up too; LongRoPE."""

from fisher_jax.models.families.family import Family, Names
from fisher_jax.models.families.phi3.config import from_gguf, from_json, to_json
from fisher_jax.models.families.sizes import ROTARY_NAMES

_QUERY_KEY_VALUE = Names("layers.{}.self_attn.qkv_proj", "blk.{}.attn_qkv")
_GATE_UP = Names("layers.{}.mlp.gate_up_proj", "blk.{}.ffn_up")

FAMILY = Family(
    title="Phi 3",
    model_types=("phi3",),
    architecture="phi3",
    transformers_class="Phi3ForCausalLM",
    names=ROTARY_NAMES
    | {f"layers.{name}": _QUERY_KEY_VALUE for name in ("query", "key", "value")}
    | {f"layers.{name}": _GATE_UP for name in ("gate", "up")},
    from_json=from_json,
    to_json=to_json,
    from_gguf=from_gguf,
)
