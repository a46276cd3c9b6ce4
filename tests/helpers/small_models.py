"""Small models with random weights, as Hugging Face folders; what a broken one must lead to."""

import json
from typing import NamedTuple

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from fisher_jax.models.errors import ModelError

LAYERS, HEADS, KEY_HEADS, HEAD_DIM, CONTEXT = 2, 4, 2, 16, 24
LLAMA_CONFIG = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEY_HEADS,
    "head_dim": HEAD_DIM,
    "intermediate_size": 96,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 0.0625,
    "rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0},
    "tie_word_embeddings": False,
    "attention_bias": True,
}
GPT2_CONFIG = {
    "model_type": "gpt2",
    "vocab_size": 300,
    "n_embd": 32,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_inner": 96,
    "n_positions": CONTEXT,
    "layer_norm_epsilon": 0.0625,
}


class Checkpoint(NamedTuple):
    """A configuration and its weights, named as in a Hugging Face folder."""

    config: dict
    weights: dict[str, np.ndarray]

    def save(self, folder):
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config))
        save_file(self.weights, folder / "model.safetensors")
        return folder


def random_weights(shapes):
    rng = np.random.default_rng(0)
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def llama_checkpoint(**changes):
    config = LLAMA_CONFIG | changes
    dim, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    shapes = {"model.embed_tokens.weight": (vocab, dim), "model.norm.weight": (dim,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, dim)
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        linear = {
            "self_attn.q_proj": (HEADS * HEAD_DIM, dim),
            "self_attn.k_proj": (KEY_HEADS * HEAD_DIM, dim),
            "self_attn.v_proj": (KEY_HEADS * HEAD_DIM, dim),
            "self_attn.o_proj": (dim, HEADS * HEAD_DIM),
            "mlp.gate_proj": (inner, dim),
            "mlp.up_proj": (inner, dim),
            "mlp.down_proj": (dim, inner),
        }
        for name, shape in linear.items():
            shapes[f"{layer}.{name}.weight"] = shape
            if name.startswith("self_attn") and config["attention_bias"]:
                shapes[f"{layer}.{name}.bias"] = shape[:1]
        shapes[f"{layer}.input_layernorm.weight"] = (dim,)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (dim,)
    return Checkpoint(config, random_weights(shapes))


def gpt2_checkpoint(**changes):
    config = GPT2_CONFIG | changes
    dim, inner, vocab = config["n_embd"], config["n_inner"], config["vocab_size"]
    shapes = {"transformer.wte.weight": (vocab, dim), "transformer.wpe.weight": (CONTEXT, dim)}
    if not config.get("tie_word_embeddings", True):
        shapes["lm_head.weight"] = (vocab, dim)
    norms = ["transformer.ln_f"]
    for i in range(LAYERS):
        layer = f"transformer.h.{i}"
        linear = {  # a Conv1D's weight is (in, out)
            "attn.c_attn": (dim, 3 * dim),
            "attn.c_proj": (dim, dim),
            "mlp.c_fc": (dim, inner),
            "mlp.c_proj": (inner, dim),
        }
        for name, shape in linear.items():
            shapes[f"{layer}.{name}.weight"] = shape
            shapes[f"{layer}.{name}.bias"] = shape[1:]
        norms += [f"{layer}.ln_1", f"{layer}.ln_2"]
    for norm in norms:
        shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (dim,)
    return Checkpoint(config, random_weights(shapes))


def word_tokenizer_files(folder):
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "word": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(folder)


def assert_same_parameters(actual, expected):
    assert actual.config == expected.config
    paths, leaves = zip(*jax.tree.leaves_with_path(nnx.state(expected)), strict=True)
    actual_paths, actual_leaves = zip(*jax.tree.leaves_with_path(nnx.state(actual)), strict=True)
    assert actual_paths == paths
    for leaf, expected_leaf in zip(actual_leaves, leaves, strict=True):
        np.testing.assert_array_equal(leaf, expected_leaf)


def assert_model_error(function, *parts):
    """A ModelError of one line that has all the parts."""
    with pytest.raises(ModelError) as caught:
        function()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message
