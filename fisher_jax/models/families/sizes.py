"""What the files of several families have in common."""

from collections.abc import Sequence
from typing import Any

from fisher_jax.models.decoder import RotaryConfig
from fisher_jax.models.errors import ModelError
from fisher_jax.models.families.family import JsonFields, Metadata, Names
from fisher_jax.models.families.ropes import rope_from_gguf, rope_from_json, rope_to_json

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
