"""The sizes of a SmolLM3, in config.json and in a GGUF."""

from typing import Any

from fisher_jax.models.decoder import RotaryConfig
from fisher_jax.models.families.family import JsonFields, Metadata
from fisher_jax.models.families.ropes import rope_from_gguf, rope_from_json
from fisher_jax.models.families.sizes import (
    rotary_from_gguf,
    rotary_from_json,
    rotary_to_json,
    windows_from_types,
    windows_to_json,
)

STEP = 4  # every fourth layer is not rotated


def from_json(fields: JsonFields) -> RotaryConfig:
    """From config.json."""
    raw = fields.raw
    step, n_layers = raw.get("no_rope_layer_interval", STEP), raw["num_hidden_layers"]
    rotated = raw.get("no_rope_layers") or [(k + 1) % step for k in range(n_layers)]
    window = raw.get("sliding_window") if raw.get("use_sliding_window") else None
    types = raw.get("layer_types")
    if types is None:
        types = ["full_attention" if turns else "sliding_attention" for turns in rotated]
    rope = rope_from_json(fields, raw.get("rope_theta") or 2_000_000.0)
    bias = raw.get("attention_bias", False)
    return rotary_from_json(
        fields,
        "smollm3",
        tied=raw.get("tie_word_embeddings", True),
        ropes=tuple(rope if turns else None for turns in rotated[:n_layers]),
        windows=windows_from_types(types, window),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=raw.get("mlp_bias", False),
    )


def to_json(config: RotaryConfig) -> dict[str, Any]:
    """As config.json has them."""
    return rotary_to_json(
        config,
        no_rope_layers=[int(rope is not None) for rope in config.ropes],
        attention_bias=config.qkv_bias,
        mlp_bias=config.mlp_bias,
    ) | windows_to_json(config)


def from_gguf(file: Metadata) -> RotaryConfig:
    """From a GGUF's metadata."""
    config = rotary_from_gguf(file, "smollm3")
    rope = rope_from_gguf(file, config.head_dim)
    turns = [(k + 1) % STEP for k in range(config.n_layers)]
    return config._replace(ropes=tuple(rope if t else None for t in turns))
