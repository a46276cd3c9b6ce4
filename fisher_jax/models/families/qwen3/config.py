"""The sizes of a Qwen 3, in config.json and in a GGUF."""

from typing import Any

from fisher_jax.models.decoder import RotaryConfig
from fisher_jax.models.families.family import JsonFields, Metadata
from fisher_jax.models.families.sizes import (
    late_windows,
    rotary_from_gguf,
    rotary_from_json,
    rotary_to_json,
    windows_to_json,
)


def from_json(fields: JsonFields) -> RotaryConfig:
    """From config.json."""
    bias = fields.raw.get("attention_bias", False)
    return rotary_from_json(
        fields,
        "qwen3",
        head_dim=fields.raw.get("head_dim") or 128,
        qkv_bias=bias,
        output_bias=bias,
        query_key_norm="head",
        windows=late_windows(fields),
    )


def to_json(config: RotaryConfig) -> dict[str, Any]:
    """As config.json has them."""
    return rotary_to_json(config, attention_bias=config.qkv_bias) | windows_to_json(config)


def from_gguf(file: Metadata) -> RotaryConfig:
    """From a GGUF's metadata."""
    return rotary_from_gguf(file, "qwen3", query_key_norm="head")
