"""The sizes of a Llama, in config.json and in a GGUF."""

from typing import Any

from fisher_jax.models.decoder import RotaryConfig
from fisher_jax.models.families.family import JsonFields, Metadata
from fisher_jax.models.families.sizes import rotary_from_gguf, rotary_from_json, rotary_to_json


def from_json(fields: JsonFields) -> RotaryConfig:
    """From config.json."""
    bias = fields.raw.get("attention_bias", False)
    mlp_bias = fields.raw.get("mlp_bias", False)
    return rotary_from_json(fields, "llama", qkv_bias=bias, output_bias=bias, mlp_bias=mlp_bias)


def to_json(config: RotaryConfig) -> dict[str, Any]:
    """As config.json has them."""
    return rotary_to_json(config, attention_bias=config.qkv_bias, mlp_bias=config.mlp_bias)


def from_gguf(file: Metadata) -> RotaryConfig:
    """From a GGUF's metadata."""
    return rotary_from_gguf(file, "llama")
