"""The sizes of a GPT-2, in config.json and in a GGUF."""

from typing import Any, NamedTuple

from fisher_jax.models.families.family import JsonFields, Metadata
from fisher_jax.models.families.sizes import gguf_sizes


class GPT2Config(NamedTuple):
    """Sizes of a GPT-2."""

    vocab: int
    dim: int
    n_layers: int
    n_heads: int
    mlp_dim: int
    context: int
    norm_eps: float = 1e-5
    tied: bool = True

    @property
    def family(self) -> str:
        """The folder in `fisher_jax.models.families`."""
        return "gpt2"


def from_json(fields: JsonFields) -> GPT2Config:
    """From config.json."""
    fields.require(
        activation_function=("gelu_new", "gelu_pytorch_tanh"),
        scale_attn_weights=(True,),
        scale_attn_by_inverse_layer_idx=(False,),
        add_cross_attention=(False,),
    )
    raw = fields.raw
    return GPT2Config(
        vocab=raw["vocab_size"],
        dim=raw["n_embd"],
        n_layers=raw["n_layer"],
        n_heads=raw["n_head"],
        mlp_dim=raw.get("n_inner") or 4 * raw["n_embd"],
        context=raw["n_positions"],
        norm_eps=raw.get("layer_norm_epsilon", 1e-5),
        tied=raw.get("tie_word_embeddings", True),
    )


def to_json(config: GPT2Config) -> dict[str, Any]:
    """As config.json has them."""
    return {
        "vocab_size": config.vocab,
        "n_embd": config.dim,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_inner": config.mlp_dim,
        "n_positions": config.context,
        "layer_norm_epsilon": config.norm_eps,
        "activation_function": "gelu_new",
        "tie_word_embeddings": config.tied,
    }


def from_gguf(file: Metadata) -> GPT2Config:
    """From a GGUF's metadata."""
    return GPT2Config(
        **gguf_sizes(file), norm_eps=file.field("{arch}.attention.layer_norm_epsilon")
    )
