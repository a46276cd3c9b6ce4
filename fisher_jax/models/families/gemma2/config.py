"""The sizes of a Gemma 2, in config.json and in a GGUF."""

from typing import Any

from fisher_jax.models.decoder import RotaryConfig
from fisher_jax.models.families.family import JsonFields, Metadata
from fisher_jax.models.families.sizes import (
    gemma_from_json,
    gemma_options,
    gemma_to_json,
    periodic_windows,
    rotary_from_gguf,
    windows_from_types,
)

PERIOD = 2  # every second layer sees all positions
LARGEST = 46  # layers of the one whose queries are divided by another width


def from_json(fields: JsonFields) -> RotaryConfig:
    """From config.json."""
    raw = fields.raw
    window, types = raw.get("sliding_window", 4096), raw.get("layer_types")
    windows = (
        periodic_windows(raw["num_hidden_layers"], PERIOD, window)
        if types is None
        else windows_from_types(types, window)
    )
    return gemma_from_json(
        fields,
        "gemma2",
        windows=windows,
        attention_cap=raw.get("attn_logit_softcapping", 50.0),
        logit_cap=raw.get("final_logit_softcapping", 30.0),
    )


def to_json(config: RotaryConfig) -> dict[str, Any]:
    """As config.json has them."""
    return gemma_to_json(config)


def from_gguf(file: Metadata) -> RotaryConfig:
    """From a GGUF's metadata, with llama.cpp's rule for what these leave out."""
    config = rotary_from_gguf(
        file,
        "gemma2",
        attention_cap=file.field("{arch}.attn_logit_softcapping", 50.0),
        logit_cap=file.field("{arch}.final_logit_softcapping", 30.0),
    )
    window = file.field("{arch}.attention.sliding_window", 4096)
    return config._replace(
        **gemma_options(config.dim),
        windows=periodic_windows(config.n_layers, PERIOD, window),
        query_width=config.dim / config.n_heads if config.n_layers == LARGEST else None,
    )
