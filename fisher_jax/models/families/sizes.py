"""What the files of several families have in common."""

import math
from collections.abc import Sequence
from typing import Any

from fisher_jax.models.decoder import (
    Llama3Scaling,
    LongScaling,
    Rope,
    RotaryConfig,
    YarnScaling,
)
from fisher_jax.models.errors import ModelError
from fisher_jax.models.families.family import JsonFields, Metadata, Names

FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
ROTARY_NAMES = {
    "embedding": Names("embed_tokens", "token_embd"),
    "norm": Names("norm", "output_norm"),
    "untied_head": Names("lm_head", "output"),
    "layers.attention_norm": Names("layers.{}.input_layernorm", "blk.{}.attn_norm"),
    "layers.query": Names("layers.{}.self_attn.q_proj", "blk.{}.attn_q"),
    "layers.key": Names("layers.{}.self_attn.k_proj", "blk.{}.attn_k"),
    "layers.value": Names("layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
    "layers.output": Names("layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
    "layers.mlp_norm": Names("layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
    "layers.gate": Names("layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"),
    "layers.up": Names("layers.{}.mlp.up_proj", "blk.{}.ffn_up"),
    "layers.down": Names("layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
}
QUERY_KEY_NAMES = {
    "layers.query_norm": Names("layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm"),
    "layers.key_norm": Names("layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm"),
}
POST_NORM_NAMES = {
    "layers.attention_post_norm": Names(
        "layers.{}.post_attention_layernorm", "blk.{}.post_attention_norm"
    ),
    "layers.mlp_post_norm": Names("layers.{}.post_feedforward_layernorm", "blk.{}.post_ffw_norm"),
}

GEMMA_NAMES = (
    ROTARY_NAMES
    | POST_NORM_NAMES
    | {"layers.mlp_norm": Names("layers.{}.pre_feedforward_layernorm", "blk.{}.ffn_norm")}
)


def rotary_from_json(fields: JsonFields, family: str, **options: Any) -> RotaryConfig:
    """The configuration that config.json gives, with options that are the family's own."""
    raw = fields.raw
    if "activation" not in options:
        fields.require(hidden_act=("silu", "swish"))
    heads = raw["num_attention_heads"]
    sizes: dict[str, Any] = {
        "vocab": raw["vocab_size"],
        "dim": raw["hidden_size"],
        "n_layers": raw["num_hidden_layers"],
        "n_heads": heads,
        "n_kv_heads": raw.get("num_key_value_heads") or heads,
        "head_dim": raw.get("head_dim") or raw["hidden_size"] // heads,
        "mlp_dim": raw["intermediate_size"],
        "context": raw.get("max_position_embeddings", 2048),
        "norm_eps": raw.get("rms_norm_eps", 1e-6),
        "tied": raw.get("tie_word_embeddings", False),
        "family": family,
    }
    if "ropes" not in options:
        sizes["ropes"] = (rope_from_json(fields, raw.get("rope_theta")),)
    return RotaryConfig(**sizes | options)


def rope_from_json(
    fields: JsonFields,
    theta: float | None = None,
    rope: dict[str, Any] | None = None,
    is_partial: bool = False,
) -> Rope:
    """The rope that `rope_scaling` and `rope_parameters` of config.json describe, or `rope`.

    `is_partial`: the family may rotate a part of each head only.

    Raises:
        ModelError: a rule that is not supported.
    """
    raw = fields.raw
    if rope is None:
        rope = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
    theta = float(rope.get("rope_theta") or theta or 10000.0)
    share = rope.get("partial_rotary_factor") or raw.get("partial_rotary_factor") or 1.0
    if share != 1 and not is_partial:
        raise ModelError(f"{fields.path}: rotary embeddings on part of a head are not supported")
    kind = rope.get("rope_type") or rope.get("type") or "default"
    context = raw.get("max_position_embeddings", 2048)
    original = rope.get("original_max_position_embeddings") or raw.get(
        "original_max_position_embeddings"
    )
    if kind == "default":
        return Rope(theta, 1.0, share)
    if kind == "linear":
        return Rope(theta, float(rope["factor"]), share)
    if kind == "llama3":
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        original = rope["original_max_position_embeddings"]
        return Rope(theta, Llama3Scaling(rope["factor"], low, high, original), share)
    original = original or context
    factor = rope.get("factor") or context / original
    amplitude = rope.get("attention_factor")
    if kind == "yarn":
        if amplitude is None:
            amplitude = yarn_amplitude(factor)
            if (over := rope.get("mscale")) and (under := rope.get("mscale_all_dim")):
                amplitude = yarn_amplitude(factor, over) / yarn_amplitude(factor, under)
        fast, slow = rope.get("beta_fast") or 32.0, rope.get("beta_slow") or 1.0
        cut = rope.get("truncate", True)
        return Rope(theta, YarnScaling(factor, original, amplitude, fast, slow, cut), share)
    if kind in ("longrope", "su"):
        if amplitude is None:
            amplitude = long_amplitude(factor, original)
        short, long = (tuple(map(float, rope[f"{n}_factor"])) for n in ("short", "long"))
        return Rope(theta, LongScaling(short, long, original, amplitude), share)
    raise ModelError(
        f"{fields.path}: RoPE scaling {kind!r} is not supported; default, linear, llama3, yarn and "
        "longrope are"
    )


def yarn_amplitude(factor: float, weight: float = 1.0) -> float:
    """`0.1 weight log(factor) + 1`, YaRN's factor on what is rotated."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def long_amplitude(factor: float, original_context: int) -> float:
    """`sqrt(1 + log(factor) / log(original context))`, LongRoPE's factor on what is rotated."""
    return math.sqrt(1 + math.log(factor) / math.log(original_context)) if factor > 1 else 1.0


def rotary_to_json(config: RotaryConfig, **more: Any) -> dict[str, Any]:
    """The configuration as config.json has it, and what the family adds."""
    return {
        "vocab_size": config.vocab,
        "hidden_size": config.dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.mlp_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": rope_to_json(next(r for r in config.ropes if r is not None)),
        "tie_word_embeddings": config.tied,
    } | more


def rope_to_json(rope: Rope) -> dict[str, Any]:
    """A rope as `rope_parameters` of config.json."""
    scaling, base = rope.scaling, {"rope_theta": rope.theta}
    if rope.share != 1:
        base["partial_rotary_factor"] = rope.share
    if isinstance(scaling, Llama3Scaling):
        return base | {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context,
        }
    if isinstance(scaling, YarnScaling):
        return base | {
            "rope_type": "yarn",
            "factor": scaling.factor,
            "original_max_position_embeddings": scaling.original_context,
            "attention_factor": scaling.amplitude,
            "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
            "truncate": scaling.truncate,
        }
    if isinstance(scaling, LongScaling):
        return base | {
            "rope_type": "longrope",
            "short_factor": list(scaling.short),
            "long_factor": list(scaling.long),
            "original_max_position_embeddings": scaling.original_context,
            "attention_factor": scaling.amplitude,
        }
    if scaling == 1:
        return base | {"rope_type": "default"}
    return base | {"rope_type": "linear", "factor": scaling}


def gguf_sizes(file: Metadata) -> dict[str, Any]:
    """The sizes that every configuration has.

    Raises:
        ModelError: a number that is missing, or head counts that differ from layer to layer.
    """
    if "token_embd.weight" not in file.shapes:
        raise ModelError(f"{file.path} lacks tensor token_embd.weight: get a complete GGUF")
    sizes = {
        "vocab": file.shapes["token_embd.weight"][0],
        "dim": file.field("{arch}.embedding_length"),
        "n_layers": file.field("{arch}.block_count"),
        "n_heads": file.field("{arch}.attention.head_count"),
        "mlp_dim": file.field("{arch}.feed_forward_length"),
        "context": file.field("{arch}.context_length"),
        "tied": "output.weight" not in file.shapes,
    }
    if any(isinstance(sizes[name], list) for name in ("n_heads", "mlp_dim")):
        raise ModelError(
            f"{file.path}: sizes that differ from layer to layer are not supported: "
            "use another model"
        )
    return sizes


def rotary_from_gguf(file: Metadata, family: str, **options: Any) -> RotaryConfig:
    """The configuration that a GGUF's metadata give, with options that are the family's own."""
    sizes = gguf_sizes(file)
    dim, heads = sizes["dim"], sizes["n_heads"]
    head_dim = file.field("{arch}.attention.key_length", dim // max(1, heads))
    sizes |= {
        "n_kv_heads": file.field("{arch}.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "norm_eps": file.field("{arch}.attention.layer_norm_rms_epsilon"),
        "qkv_bias": "blk.0.attn_q.bias" in file.shapes,
        "output_bias": "blk.0.attn_output.bias" in file.shapes,
        "mlp_bias": "blk.0.ffn_up.bias" in file.shapes,
        "family": family,
    }
    if "ropes" not in options:
        sizes["ropes"] = (rope_from_gguf(file, head_dim),)
    return RotaryConfig(**sizes | options)


def rope_from_gguf(
    file: Metadata, head_dim: int, is_partial: bool = False, theta: float = 10000.0
) -> Rope:
    """The rope of a GGUF's metadata and tensors, as llama.cpp reads them; see `rope_from_json`.

    Raises:
        ModelError: a rule that is not supported.
    """
    theta = file.field("{arch}.rope.freq_base", theta)
    turned = file.field("{arch}.rope.dimension_count", head_dim)
    share = 1.0 if turned == head_dim else turned / head_dim
    if share != 1 and not is_partial:
        raise ModelError(f"{file.path}: rotary embeddings on part of a head are not supported")
    original = file.field("{arch}.rope.scaling.original_context_length", None)
    context = file.field("{arch}.context_length")
    if "rope_freqs.weight" in file.shapes:  # Llama 3's rule, written out
        factors = file.numbers("rope_freqs.weight")
        return Rope(theta, LongScaling(factors, factors, original or context), share)
    if "rope_factors_short.weight" in file.shapes:
        short, long = (file.numbers(f"rope_factors_{n}.weight") for n in ("short", "long"))
        original = original or context
        amplitude = file.field("{arch}.rope.scaling.attn_factor", None)
        if amplitude is None:
            amplitude = long_amplitude(context / original, original)
        return Rope(theta, LongScaling(short, long, original, amplitude), share)
    kind = file.field("{arch}.rope.scaling.type", "linear")  # llama.cpp's default
    factor = file.field("{arch}.rope.scaling.factor", 1.0) or 1.0
    if kind == "none":
        return Rope(theta, 1.0, share)
    if kind == "linear":
        return Rope(theta, factor, share)
    if kind == "yarn":
        fast = file.field("{arch}.rope.scaling.yarn_beta_fast", 32.0)
        slow = file.field("{arch}.rope.scaling.yarn_beta_slow", 1.0)
        amplitude = yarn_amplitude(factor) * file.field("{arch}.rope.scaling.attn_factor", 1.0)
        return Rope(theta, YarnScaling(factor, original or context, amplitude, fast, slow), share)
    raise ModelError(
        f"{file.path}: RoPE scaling {kind!r} of a GGUF is not supported; none, linear, yarn and "
        "written-out factors are"
    )


def windows_from_types(types: Sequence[str], window: int | None) -> tuple[int | None, ...]:
    """The windows of layers by config.json's `layer_types`; empty where none has one."""
    windows = tuple(window if kind == "sliding_attention" else None for kind in types)
    return windows if any(windows) else ()


def late_windows(fields: JsonFields) -> tuple[int | None, ...]:
    """Qwen's: of the layers from `max_window_layers` on, if `use_sliding_window`."""
    raw = fields.raw
    window = raw.get("sliding_window", 4096) if raw.get("use_sliding_window") else None
    first, n_layers = raw.get("max_window_layers", 28), raw["num_hidden_layers"]
    types = raw.get("layer_types") or [
        "sliding_attention" if k >= first else "full_attention" for k in range(n_layers)
    ]
    return windows_from_types(types, window)


def windows_to_json(config: RotaryConfig) -> dict[str, Any]:
    """A window that some layers have, as config.json has it."""
    windows = [window for window in config.windows if window]
    if not windows:
        return {"use_sliding_window": False}
    return {
        "use_sliding_window": True,
        "sliding_window": windows[0],
        "layer_types": layer_types(config),
    }


def layer_types(config: RotaryConfig) -> list[str]:
    """`layer_types` of config.json."""
    windows = config.windows or (None,) * config.n_layers
    return ["sliding_attention" if window else "full_attention" for window in windows]


def periodic_windows(n_layers: int, period: int, window: int | None) -> tuple[int | None, ...]:
    """Of all layers but every `period`-th; empty where there is none."""
    windows = tuple(window if (k + 1) % period else None for k in range(n_layers))
    return windows if any(windows) else ()


def gemma_options(dim: int) -> dict[str, Any]:
    """What Gemma 2 and 3 have in common."""
    return {
        "activation": "gelu",
        "post_norms": True,
        "norm_offset": True,
        "embedding_scale": dim**0.5,
    }


def gemma_from_json(fields: JsonFields, family: str, **options: Any) -> RotaryConfig:
    """The configuration of a Gemma 2 or 3 that config.json gives."""
    raw = fields.raw
    fields.require(
        hidden_activation=("gelu_pytorch_tanh",), use_bidirectional_attention=(None, False)
    )
    bias, head_dim = raw.get("attention_bias", False), raw.get("head_dim", 256)
    width = raw.get("query_pre_attn_scalar", 256)
    own = {
        "head_dim": head_dim,
        "qkv_bias": bias,
        "output_bias": bias,
        "query_width": None if width == head_dim else width,
        "tied": raw.get("tie_word_embeddings", True),
    }
    return rotary_from_json(fields, family, **own | gemma_options(raw["hidden_size"]) | options)


def gemma_to_json(config: RotaryConfig) -> dict[str, Any]:
    """A Gemma 2 or 3 as config.json has it."""
    windows = [window for window in config.windows if window]
    fields = rotary_to_json(
        config,
        hidden_activation="gelu_pytorch_tanh",
        attention_bias=config.qkv_bias,
        query_pre_attn_scalar=config.query_width or config.head_dim,
        sliding_window=windows[0] if windows else None,
        layer_types=layer_types(config),
        attn_logit_softcapping=config.attention_cap,
        final_logit_softcapping=config.logit_cap,
    )
    del fields["hidden_act"]
    return fields
