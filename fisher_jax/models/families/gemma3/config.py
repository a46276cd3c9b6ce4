"""The sizes of a Gemma 3 that reads text, in config.json and in a GGUF."""

from typing import Any

from fisher_jax.models.decoder import Rope, RotaryConfig
from fisher_jax.models.families.family import JsonFields, Metadata
from fisher_jax.models.families.ropes import rope_from_gguf, rope_from_json, rope_to_json
from fisher_jax.models.families.sizes import (
    gemma_from_json,
    gemma_options,
    gemma_to_json,
    periodic_windows,
    rotary_from_gguf,
    windows_from_types,
)

PERIOD = 6  # every sixth layer sees all positions
LARGEST = 62  # layers of the one whose queries are divided by another width
THETA, LOCAL_THETA = 1_000_000.0, 10_000.0


def from_json(fields: JsonFields) -> RotaryConfig:
    """From config.json."""
    raw = fields.raw
    window, types = raw.get("sliding_window", 4096), raw.get("layer_types")
    period = raw.get("sliding_window_pattern") or raw.get("_sliding_window_pattern") or PERIOD
    windows = (
        periodic_windows(raw["num_hidden_layers"], period, window)
        if types is None
        else windows_from_types(types, window)
    )
    ropes = raw.get("rope_parameters") or {}
    everywhere = rope_from_json(
        fields,
        raw.get("rope_theta") or THETA,
        {**(raw.get("rope_scaling") or {}), **(ropes.get("full_attention") or {})},
    )
    local = rope_from_json(
        fields,
        raw.get("rope_local_base_freq") or LOCAL_THETA,
        ropes.get("sliding_attention") or {"rope_type": "default"},
    )
    return gemma_from_json(
        fields,
        "gemma3",
        windows=windows,
        ropes=_by_window(windows, local, everywhere, raw["num_hidden_layers"]),
        query_key_norm="head",
        attention_cap=raw.get("attn_logit_softcapping"),
        logit_cap=raw.get("final_logit_softcapping"),
    )


def to_json(config: RotaryConfig) -> dict[str, Any]:
    """As config.json has them."""
    kinds = dict(zip(config.windows or (None,), config.ropes, strict=False))
    everywhere = kinds.get(None, Rope(THETA))
    local = next((rope for window, rope in kinds.items() if window), Rope(LOCAL_THETA))
    assert everywhere is not None and local is not None
    ropes = {
        "full_attention": rope_to_json(everywhere),
        "sliding_attention": rope_to_json(local),
    }
    return gemma_to_json(config) | {"rope_parameters": ropes}


def from_gguf(file: Metadata) -> RotaryConfig:
    """From a GGUF's metadata, with llama.cpp's rules for what these leave out."""
    config = rotary_from_gguf(file, "gemma3", query_key_norm="head")
    everywhere = rope_from_gguf(file, config.head_dim, theta=THETA)
    local = Rope(file.field("{arch}.rope.freq_base_swa", LOCAL_THETA))
    period = file.field("{arch}.attention.sliding_window_pattern", PERIOD)
    window = file.field("{arch}.attention.sliding_window", 1024)
    windows = periodic_windows(config.n_layers, period, window)
    return config._replace(
        **gemma_options(config.dim),
        windows=windows,
        ropes=_by_window(windows, local, everywhere, config.n_layers),
        logit_cap=file.field("{arch}.final_logit_softcapping", None) or None,
        query_width=config.dim / config.n_heads if config.n_layers == LARGEST else None,
    )


def _by_window(
    windows: tuple[int | None, ...], local: Rope, everywhere: Rope, n_layers: int
) -> tuple[Rope, ...]:
    return tuple(local if window else everywhere for window in windows or (None,) * n_layers)
