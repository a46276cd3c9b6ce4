"""A saved Llama of one layer whose tokens are words, and texts for it."""

import json

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = "to be or not that is the question whether tis nobler in mind".split()
SPECIAL = ["[UNK]", "[BOS]"]
VOCAB, DIM, INNER, CONTEXT = len(SPECIAL) + len(WORDS), 16, 24, 30
TEXTS = [
    "to be or not to be",
    "that is the question",
    "whether tis nobler in the mind to be or not to be that is the question",
    "to be",
    "in the mind",
    "nobler in mind to be or not",
    "be or not to be",
    "the question is whether to be",
]
PAIRS = [
    {"prompt": "to be or not", "completion": " to be"},
    {"prompt": "", "completion": "that is the question"},
    {"prompt": "whether", "completion": " tis nobler in the mind"},
]


def save_folder(folder, adds_bos):
    """A Llama of one layer with random weights, and a tokenizer whose tokens are words."""
    words = models.WordLevel({w: i for i, w in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=["[BOS]", "$A"], special_tokens=[("[BOS]", 1)]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", bos_token="[BOS]")
    fast.save_pretrained(folder)
    config = {
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": DIM,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": INNER,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {
        "embed_tokens": (VOCAB, DIM),
        "norm": (DIM,),
        "layers.0.input_layernorm": (DIM,),
        "layers.0.self_attn.q_proj": (DIM, DIM),
        "layers.0.self_attn.k_proj": (DIM // 2, DIM),
        "layers.0.self_attn.v_proj": (DIM // 2, DIM),
        "layers.0.self_attn.o_proj": (DIM, DIM),
        "layers.0.post_attention_layernorm": (DIM,),
        "layers.0.mlp.gate_proj": (INNER, DIM),
        "layers.0.mlp.up_proj": (INNER, DIM),
        "layers.0.mlp.down_proj": (DIM, INNER),
    }
    rng = np.random.default_rng(0)
    weights = {
        f"model.{name}.weight": rng.normal(0, 0.5, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    save_file(weights, folder / "model.safetensors")
    return folder
