"""A small language model whose tokens are words, and what it must predict, in float64."""

import json
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from experiments.corpora.corpora import shakespeare
from fisher_jax.data import Example
from fisher_jax.models.decoder import RotaryConfig, RotaryDecoder
from fisher_jax.models.load import LanguageModel

WORDS = (
    "to be or not that is the question whether tis nobler yes Yes no in mind # text : user".split()
)
VOCAB = ["[UNK]", "[BOS]", *WORDS]
CONTEXT = 40
TEXTS = ["to be or not to be", "that", "whether tis nobler in the mind", "in question"]
PAIRS = [
    Example(" to be that is", "to be or not"),
    Example(" whether tis nobler in the mind", "that is the question"),
    Example(" the mind", "in"),
]


def save_play_model(folder, dim=16, n_words=300):
    """A folder of a Llama of one layer with random weights; frequent words of Shakespeare."""
    counts = Counter(word for row in shakespeare() for word in row["text"].split())
    words = ["<unk>", "yes", *(word for word, _ in counts.most_common(n_words - 2))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    config = {
        "model_type": "llama", "vocab_size": n_words, "hidden_size": dim, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 2 * dim,
        "max_position_embeddings": 200, "tie_word_embeddings": True, "hidden_act": "silu",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens.weight": (n_words, dim), "model.norm.weight": (dim,)}
    layer = "model.layers.0"
    for name, shape in {
        "self_attn.q_proj": (dim, dim), "self_attn.k_proj": (dim // 2, dim),
        "self_attn.v_proj": (dim // 2, dim), "self_attn.o_proj": (dim, dim),
        "mlp.gate_proj": (2 * dim, dim), "mlp.up_proj": (2 * dim, dim),
        "mlp.down_proj": (dim, 2 * dim), "input_layernorm": (dim,),
        "post_attention_layernorm": (dim,),
    }.items():  # fmt: skip
        shapes[f"{layer}.{name}.weight"] = shape
    rng = np.random.default_rng(0)
    weights = {k: rng.normal(0, 0.3, s).astype(np.float32) for k, s in shapes.items()}
    save_file(weights, folder / "model.safetensors")
    return folder


def language_model(adds_bos=False, template=None):
    """A Llama of one layer with random weights, and a tokenizer whose tokens are words."""
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(VOCAB)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=["[BOS]", "$A"], special_tokens=[("[BOS]", 1)]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
    fast.chat_template = template
    config = RotaryConfig(len(VOCAB), 16, 1, 2, 1, 8, 24, CONTEXT)
    graph, state = nnx.split(nnx.eval_shape(lambda: RotaryDecoder(config, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda w: jnp.asarray(rng.normal(0, 0.5, w.shape), w.dtype), state)
    return LanguageModel("tiny", nnx.merge(graph, weights), fast, "", "")


@nnx.jit
def alone(module, ids_1xT):
    return module(ids_1xT)


def next_token(model, ids):
    """p(. | ids) in float64, one row alone: (len(ids), L)."""
    padded = ids + [0] * (CONTEXT - len(ids))  # on the right, unseen: one compilation
    hidden = np.asarray(alone(model.module, jnp.asarray([padded])), np.float64)[0, : len(ids)]
    return softmax(hidden @ np.asarray(model.module.head, np.float64).T)


def softmax(logits):
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def ids_of(text):
    return [VOCAB.index(word) for word in text.split()]


def mean_loss(p, ids, first):
    """Mean NLL of `ids[first:]`, p the distributions after each of `ids`."""
    return np.mean([-np.log(p[t - 1, ids[t]]) for t in range(first, len(ids))])
