"""GGUF files of small models and vocabularies."""

from typing import NamedTuple

import gguf
from gguf.quants import dequantize, quantize
from tokenizers import pre_tokenizers

from fisher_jax.models.files.gguf_file import GGUFFile
from tests.helpers.small_models import (
    CONTEXT,
    HEAD_DIM,
    HEADS,
    KEY_HEADS,
    LAYERS,
    Checkpoint,
    gpt2_checkpoint,
)

F32, F16, Q8_0, Q4_0 = (gguf.GGMLQuantizationType[name] for name in ("F32", "F16", "Q8_0", "Q4_0"))
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # tokenizer.ggml.token_type
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


class Vocabulary(NamedTuple):
    """Tokens, their types and the merges of a GGUF's tokenizer, and further metadata."""

    tokens: list[str]
    merges: list[str]
    types: list[int]
    pre: str = "gpt-2"
    bos: int | None = None
    add_bos: bool | None = None


def permute(weights, n_heads):
    """As llama.cpp's converter orders the rows of queries and keys."""
    halves = weights.reshape(n_heads, 2, len(weights) // n_heads // 2, *weights.shape[1:])
    return halves.swapaxes(1, 2).reshape(weights.shape)


def byte_vocabulary(merges=("t h",), whole=(), special=(), user_defined=(), **settings):
    merged = [merge.replace(" ", "") for merge in merges]
    tokens = [*ALPHABET, *merged, *whole, *special, *user_defined]
    types = [NORMAL] * len(tokens)
    for token in special:
        types[tokens.index(token)] = CONTROL
    for token in user_defined:
        types[tokens.index(token)] = USER_DEFINED
    return Vocabulary(tokens, list(merges), types, **settings)


def write_gguf(
    path, checkpoint, kind=F32, vocabulary=None, architecture=None, extra=(), heads=HEADS
):
    """The checkpoint as a GGUF; returns it with its weights as `kind` rounds them."""
    config, rounded = checkpoint.config, {}
    is_llama = config["model_type"] == "llama"
    writer = gguf.GGUFWriter(path, architecture or config["model_type"])
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(96)
    writer.add_head_count(heads)
    if is_llama:
        writer.add_head_count_kv(KEY_HEADS)
        writer.add_key_length(HEAD_DIM)
        writer.add_value_length(HEAD_DIM)
        writer.add_rope_dimension_count(HEAD_DIM)
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        rope = config["rope_parameters"]
        writer.add_rope_freq_base(rope["rope_theta"])
        if rope["rope_type"] == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(rope["factor"])
    else:
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    for add, *value in extra:
        getattr(writer, add)(*value)
    if vocabulary is not None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(vocabulary.pre)
        writer.add_token_list(vocabulary.tokens)
        writer.add_token_types(vocabulary.types)
        if vocabulary.merges:
            writer.add_token_merges(vocabulary.merges)
        if vocabulary.bos is not None:
            writer.add_bos_token_id(vocabulary.bos)
        if vocabulary.add_bos is not None:
            writer.add_add_bos_token(vocabulary.add_bos)
    family = gguf.MODEL_ARCH.LLAMA if is_llama else gguf.MODEL_ARCH.GPT2
    names = gguf.get_tensor_name_map(family, LAYERS)
    for name, weights in checkpoint.weights.items():
        is_conv1d = not is_llama and weights.ndim == 2 and ".h." in name
        stored = weights.T if is_conv1d else weights
        this_kind = kind if weights.ndim == 2 else F32
        kept = dequantize(quantize(stored, this_kind), this_kind)  # row by row
        rounded[name] = kept.T.copy() if is_conv1d else kept
        if ".q_proj." in name:
            stored = permute(stored, HEADS)
        if ".k_proj." in name:
            stored = permute(stored, KEY_HEADS)
        gguf_name = names.get_name(name, (".weight", ".bias"))
        assert gguf_name is not None
        writer.add_tensor(gguf_name, quantize(stored, this_kind), raw_dtype=this_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Checkpoint(config, rounded)


def write_tokenizer(path, vocabulary):
    """A GGUF of which only the tokenizer is used."""
    write_gguf(path, gpt2_checkpoint(), vocabulary=vocabulary)
    return GGUFFile(path).tokenizer()
