"""The sizes of a Mistral, in config.json and in a GGUF."""

from typing import Any

from fisher_jax.models.decoder import RotaryConfig
from fisher_jax.models.families.family import JsonFields, Metadata
from fisher_jax.models.families.sizes import rotary_from_gguf, rotary_from_json, rotary_to_json


def from_json(fields: JsonFields) -> RotaryConfig:
    """From config.json."""
    raw = fields.raw
    window = raw.get("sliding_window", 4096)  # its writers leave out what is the default
    windows = (window,) * raw["num_hidden_layers"] if window else ()
    return rotary_from_json(fields, "mistral", windows=windows)


def to_json(config: RotaryConfig) -> dict[str, Any]:
    """As config.json has them."""
    return rotary_to_json(config, sliding_window=config.windows[0] if config.windows else None)


def from_gguf(file: Metadata) -> RotaryConfig:
    """From a GGUF's metadata; most files call this family llama."""
    window = file.field("{arch}.attention.sliding_window", 0)
    windows = (window,) * file.field("{arch}.block_count") if window else ()
    return rotary_from_gguf(file, "mistral", windows=windows)
