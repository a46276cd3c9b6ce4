"""The sizes of an OLMo 2, in config.json and in a GGUF."""

from typing import Any

from fisher_jax.models.decoder import RotaryConfig
from fisher_jax.models.families.family import JsonFields, Metadata
from fisher_jax.models.families.sizes import rotary_from_gguf, rotary_from_json, rotary_to_json


def from_json(fields: JsonFields) -> RotaryConfig:
    """From config.json."""
    bias = fields.raw.get("attention_bias", False)
    return rotary_from_json(
        fields,
        "olmo2",
        qkv_bias=bias,
        output_bias=bias,
        pre_norms=False,
        post_norms=True,
        query_key_norm="all",
    )


def to_json(config: RotaryConfig) -> dict[str, Any]:
    """As config.json has them."""
    fields = rotary_to_json(config, attention_bias=config.qkv_bias)
    del fields["head_dim"]  # it follows from the width
    return fields


def from_gguf(file: Metadata) -> RotaryConfig:
    """From a GGUF's metadata."""
    options = {"pre_norms": False, "post_norms": True, "query_key_norm": "all"}
    return rotary_from_gguf(file, "olmo2", **options)
