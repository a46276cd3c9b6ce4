"""The sizes of a Phi 3, in config.json and in a GGUF."""

from typing import Any

from fisher_jax.models.decoder import LongScaling, RotaryConfig
from fisher_jax.models.families.family import JsonFields, Metadata
from fisher_jax.models.families.ropes import rope_from_gguf, rope_from_json
from fisher_jax.models.families.sizes import (
    rotary_from_gguf,
    rotary_from_json,
    rotary_to_json,
)


def from_json(fields: JsonFields) -> RotaryConfig:
    """From config.json."""
    raw = fields.raw
    window = raw.get("sliding_window")
    rope = rope_from_json(fields, raw.get("rope_theta"), is_partial=True)
    config = rotary_from_json(
        fields,
        "phi3",
        ropes=(rope,),
        windows=(window,) * raw["num_hidden_layers"] if window else (),
    )
    return _within_original(config)


def to_json(config: RotaryConfig) -> dict[str, Any]:
    """As config.json has them."""
    (rope,) = config.ropes
    assert rope is not None
    fields = {"sliding_window": config.windows[0] if config.windows else None}
    if isinstance(rope.scaling, LongScaling):
        fields["original_max_position_embeddings"] = rope.scaling.original_context
    return rotary_to_json(config, **fields)


def from_gguf(file: Metadata) -> RotaryConfig:
    """From a GGUF's metadata."""
    config = rotary_from_gguf(file, "phi3", ropes=())
    rope = rope_from_gguf(file, config.head_dim, is_partial=True)
    window = file.field("{arch}.attention.sliding_window", 0)
    windows = (window,) * config.n_layers if window else ()
    return _within_original(config._replace(ropes=(rope,), windows=windows))


def _within_original(config: RotaryConfig) -> RotaryConfig:
    """Rows longer than the original context would need other factors for all of their tokens."""
    (rope,) = config.ropes
    scaling = rope.scaling if rope is not None else 1.0
    if isinstance(scaling, LongScaling) and scaling.short != scaling.long:
        return config._replace(context=min(config.context, scaling.original_context))
    return config
