"""GPT-2: its sizes in files, its names of tensors, and its forward pass."""

from fisher_jax.models.families.family import Family, Names
from fisher_jax.models.families.gpt2.config import GPT2Config, from_gguf, from_json, to_json
from fisher_jax.models.families.gpt2.module import GPT2

__all__ = ["FAMILY", "GPT2", "GPT2Config"]

FAMILY = Family(
    title="GPT-2",
    model_types=("gpt2",),
    architecture="gpt2",
    transformers_class="GPT2LMHeadModel",
    module=GPT2,
    names={
        "embedding": Names("wte", "token_embd"),
        "position": Names("wpe", "position_embd"),
        "norm": Names("ln_f", "output_norm"),
        "untied_head": Names("lm_head", "output"),
        "layers.attention_norm": Names("h.{}.ln_1", "blk.{}.attn_norm"),
        "layers.query_key_value": Names("h.{}.attn.c_attn", "blk.{}.attn_qkv"),
        "layers.output": Names("h.{}.attn.c_proj", "blk.{}.attn_output"),
        "layers.mlp_norm": Names("h.{}.ln_2", "blk.{}.ffn_norm"),
        "layers.up": Names("h.{}.mlp.c_fc", "blk.{}.ffn_up"),
        "layers.down": Names("h.{}.mlp.c_proj", "blk.{}.ffn_down"),
    },
    prefix="transformer.",
    from_json=from_json,
    to_json=to_json,
    from_gguf=from_gguf,
    turns_kernels=False,  # its Conv1D is (in, out)
)
