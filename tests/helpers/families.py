"""Small configurations of every rotary family, as its config.json has them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fisher_jax.models.families import family_of, of_model_type
from fisher_jax.models.families.family import JsonFields
from fisher_jax.models.files.assemble import checked_sizes

VOCAB, WINDOW, LAYERS = 97, 8, 4
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "rms_norm_eps": 0.03,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
YARN |= {"original_max_position_embeddings": 16}
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 48}
LONG |= {"short_factor": [1.0, 1.5, 2.0], "long_factor": [2.0, 3.0, 4.0]}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": WINDOW}
VARIANTS = {
    "mistral": {"model_type": "mistral", "sliding_window": WINDOW},
    "mistral without a window": {
        "model_type": "mistral",
        "sliding_window": None,
        "tie_word_embeddings": False,
    },
    "qwen2": {"model_type": "qwen2"},
    "qwen2 with windows": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "max_window_layers": 2,
    },
    "qwen2 by yarn": {"model_type": "qwen2", "rope_parameters": YARN},
    "qwen3": {"model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": False},
    "smollm3": {"model_type": "smollm3", "no_rope_layer_interval": 2},
    "smollm3 by yarn": {"model_type": "smollm3", "rope_parameters": YARN},
    "gemma2": {"model_type": "gemma2"} | GEMMA,
    "gemma3": {
        "model_type": "gemma3_text",
        "layer_types": [*["sliding_attention"] * 2, "full_attention", "sliding_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "rope_theta": 1e5, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
        },
    }
    | GEMMA,
    "phi3": {"model_type": "phi3", "sliding_window": WINDOW, "tie_word_embeddings": False},
    "phi3 by longrope": {
        "model_type": "phi3",
        "original_max_position_embeddings": 48,
        "rope_parameters": LONG | {"partial_rotary_factor": 0.75},
    },
    "olmo2": {"model_type": "olmo2"},
}


def raw_config(variant):
    """What config.json says."""
    return SIZES | VARIANTS[variant]


def config_of(variant, path="config.json"):
    """The configuration that the family's folder reads."""
    raw = json.loads(json.dumps(raw_config(variant)))
    family = of_model_type(raw["model_type"])
    return checked_sizes(family.from_json(JsonFields(raw, path)), path)


def random_module(variant):
    """A model with weights far from where training begins."""
    config = config_of(variant)
    build = family_of(config).module
    graph, state = nnx.split(nnx.eval_shape(lambda: build(config, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), state)
    return nnx.merge(graph, weights)
