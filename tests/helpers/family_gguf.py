"""A random model of a family as a GGUF, its tensors named by the package gguf."""

import gguf
import numpy as np

from fisher_jax.models.decoder import LongScaling, YarnScaling
from fisher_jax.models.files.export import named_tensors
from tests.helpers.gguf_files import permute


def write_family(path, module, architecture, pairs=False, offset=False):
    """As llama.cpp's converter writes it."""
    config = module.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.n_layers)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.dim)
    writer.add_feed_forward_length(config.mlp_dim)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    rope = next(rope for rope in config.ropes[::-1] if rope is not None)
    if any(config.windows):
        writer.add_sliding_window(next(window for window in config.windows if window))
        by_layer = zip(config.ropes * len(config.windows), config.windows, strict=False)
        rope = next((rope for rope, window in by_layer if not window), rope)
    writer.add_rope_freq_base(rope.theta)
    writer.add_rope_dimension_count(rope.width(config.head_dim))
    scaling = rope.scaling
    if isinstance(scaling, YarnScaling):
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling.factor)
        writer.add_rope_scaling_orig_ctx_len(scaling.original_context)
    elif isinstance(scaling, LongScaling):
        writer.add_rope_scaling_attn_factors(scaling.amplitude)
        writer.add_rope_scaling_orig_ctx_len(scaling.original_context)
        for name in ("short", "long"):
            factors = np.asarray(getattr(scaling, name), np.float32)
            writer.add_tensor(f"rope_factors_{name}.weight", factors)
    elif scaling != 1:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling)
    if config.attention_cap is not None:
        writer.add_attn_logit_softcapping(config.attention_cap)
    if config.logit_cap is not None:
        writer.add_final_logit_softcapping(config.logit_cap)
    kind = gguf.MODEL_ARCH[architecture.upper()]
    names = gguf.get_tensor_name_map(kind, config.n_layers)
    for name, weights in named_tensors(module).items():
        stored = weights.astype(np.float32)
        if pairs and (".q_proj." in name or ".k_proj." in name):
            stored = permute(stored, config.n_heads if ".q_" in name else config.n_kv_heads)
        if offset and name.endswith("norm.weight"):
            stored = stored + 1
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
