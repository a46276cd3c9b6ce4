"""Tiny models of both families with random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fisher_jax.models.decoder import RotaryConfig, RotaryDecoder
from fisher_jax.models.families.gpt2 import GPT2, GPT2Config

VOCAB = 97
LLAMA = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
    "rms_norm_eps": 0.03,
    "tie_word_embeddings": True,
    "attn_implementation": "eager",
}
LLAMA_VARIANTS = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "multi-head": {"num_key_value_heads": 4},
    "one key head": {"num_key_value_heads": 1},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "wide heads": {"head_dim": 16},
    "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
    "linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    "llama3": {
        "head_dim": 16,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 1e4,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
}
GPT2_SIZES = {
    "vocab_size": VOCAB,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "layer_norm_epsilon": 0.03,
    "attn_implementation": "eager",
}
GPT2_VARIANTS = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "n_inner": {"n_inner": 40},
}
MODELS = {
    "llama": (RotaryDecoder, RotaryConfig(VOCAB, 32, 2, 4, 2, 8, 48, 64)),
    "gpt2": (GPT2, GPT2Config(VOCAB, 32, 2, 4, 48, 64)),
}


def random_model(name, dtype=jnp.float32):
    family, config = MODELS[name]
    graph, state = nnx.split(nnx.eval_shape(lambda: family(config, dtype=dtype, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), dtype), state)
    return nnx.merge(graph, weights)


def random_ids(n_rows, length):
    return np.random.default_rng(0).integers(VOCAB, size=(n_rows, length), dtype=np.int32)


def forward(model, ids_BxT):
    """Traced anew at every call, as a patched LONG_QUERIES needs."""
    return np.asarray(nnx.jit(lambda model, ids: model(ids))(model, jnp.asarray(ids_BxT)))


def save_random_reference(reference, folder):
    """Weights far from their initialisation, so that every one of them matters."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    reference.eval().save_pretrained(folder)
    assert (folder / "model.safetensors").is_file()
