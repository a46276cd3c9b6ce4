import hashlib
import json
from typing import NamedTuple

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from gguf.quants import dequantize, quantize
from small_models import (
    CONTEXT,
    HEAD_DIM,
    HEADS,
    KEY_HEADS,
    LAYERS,
    Checkpoint,
    assert_model_error,
    assert_same_parameters,
    gpt2_checkpoint,
    llama_checkpoint,
)
from tokenizers import ByteLevelBPETokenizer, pre_tokenizers

from fisher_jax.models.gguf_file import GGUFFile
from fisher_jax.models.huggingface import load_folder
from fisher_jax.models.llama import LlamaConfig
from fisher_jax.models.load import _smollm2_file, load_model

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


@pytest.fixture(scope="module")
def smollm2_tokenizer():
    return GGUFFile(_smollm2_file()).tokenizer()


# --- weights of a GGUF


@pytest.mark.parametrize("kind", [F32, F16, Q8_0, Q4_0], ids=lambda kind: kind.name)
@pytest.mark.parametrize("make", [llama_checkpoint, gpt2_checkpoint])
def test_gguf_has_the_weights_of_the_folder(tmp_path, make, kind):
    rounded = write_gguf(tmp_path / "model.gguf", make(), kind)
    expected, _ = load_folder(rounded.save(tmp_path / "folder"), jnp.float32)
    assert_same_parameters(GGUFFile(tmp_path / "model.gguf").model(jnp.float32), expected)


@pytest.mark.parametrize(
    "checkpoint",
    [
        llama_checkpoint(tie_word_embeddings=True, attention_bias=False),
        gpt2_checkpoint(tie_word_embeddings=False),
    ],
    ids=["llama", "gpt2"],
)
def test_gguf_head_is_tied_without_an_output_tensor(tmp_path, checkpoint):
    write_gguf(tmp_path / "model.gguf", checkpoint)
    expected, _ = load_folder(checkpoint.save(tmp_path / "folder"), jnp.float32)
    assert_same_parameters(GGUFFile(tmp_path / "model.gguf").model(jnp.float32), expected)


def test_bfloat16_parameters_are_the_rounded_ones(tmp_path, llama_folder):
    checkpoint = llama_checkpoint()
    write_gguf(tmp_path / "model.gguf", checkpoint)
    expected = np.asarray(checkpoint.weights["lm_head.weight"], jnp.bfloat16)
    for model in (
        GGUFFile(tmp_path / "model.gguf").model(jnp.bfloat16),
        load_folder(llama_folder, jnp.bfloat16)[0],
    ):
        assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {
            jnp.dtype(jnp.bfloat16)
        }
        np.testing.assert_array_equal(model.head, expected)


def test_gguf_rope_scaling_follows_llama_cpp(tmp_path):
    plain = llama_checkpoint(rope_parameters={"rope_type": "default", "rope_theta": 500.0})

    def scaling(*extra):
        write_gguf(tmp_path / "model.gguf", plain, extra=extra)
        config = GGUFFile(tmp_path / "model.gguf").config()
        assert isinstance(config, LlamaConfig)
        return config.rope_scaling

    factor = ("add_rope_scaling_factor", 8.0)
    assert scaling() == 1.0
    assert scaling(factor) == 8.0  # without a type it is linear
    assert scaling(factor, ("add_rope_scaling_type", gguf.RopeScalingType.NONE)) == 1.0
    assert scaling(("add_rope_scaling_factor", 0.0)) == 1.0


@pytest.mark.parametrize(
    ("extra", "part"),
    [
        ([("add_rope_scaling_type", gguf.RopeScalingType.YARN)], "yarn"),
        ([("add_tensor", "rope_freqs.weight", np.ones(8, np.float32))], "llama3"),
        ([("add_tensor", "blk.0.ffn_gate_inp.weight", np.ones(8, np.float32))], "ffn_gate_inp"),
    ],
)
def test_gguf_of_an_unsupported_llama_is_refused(tmp_path, extra, part):
    path = tmp_path / "model.gguf"
    plain = llama_checkpoint(rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    write_gguf(path, plain, extra=extra)
    assert_model_error(lambda: GGUFFile(path).model(jnp.float32), path, part)


def test_gguf_of_another_architecture_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path, llama_checkpoint(), architecture="qwen2")
    assert_model_error(lambda: GGUFFile(path).model(jnp.float32), path, "qwen2")


def test_gguf_with_an_unknown_quantisation_is_refused(tmp_path):
    checkpoint, path = gpt2_checkpoint(), tmp_path / "model.gguf"
    weights = checkpoint.weights
    position = weights.pop("transformer.wpe.weight")
    extra = [("add_tensor", "position_embd.weight", position.astype(np.int8))]
    write_gguf(path, checkpoint, extra=extra)
    assert_model_error(lambda: GGUFFile(path).model(jnp.float32), path, "I8", "position_embd")


def test_gguf_without_a_tensor_is_refused(tmp_path):
    checkpoint, path = llama_checkpoint(), tmp_path / "model.gguf"
    del checkpoint.weights["model.layers.1.mlp.up_proj.weight"]
    write_gguf(path, checkpoint)
    assert_model_error(
        lambda: GGUFFile(path).model(jnp.float32), path, "lacks", "blk.1.ffn_up.weight"
    )


def test_gguf_by_path_is_a_whole_model(tmp_path):
    path = tmp_path / "model.gguf"
    rounded = write_gguf(path, gpt2_checkpoint(), vocabulary=byte_vocabulary())
    model = load_model(str(path))
    assert (model.name, model.dim, model.context) == (str(path), 32, CONTEXT)
    assert model.n_parameters == sum(weights.size for weights in rounded.weights.values())
    assert model.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    ids = model.tokenizer("ab")["input_ids"]
    assert ids == [ALPHABET.index("a"), ALPHABET.index("b")]


# --- tokenizer of a GGUF

PIECES = {  # by hand, from the splitting rules of each pre-tokenizer
    "12345": {
        "gpt-2": ["12", "34", "5"],
        "smollm": ["1", "2", "3", "4", "5"],
        "qwen2": ["1", "2", "3", "4", "5"],
        "llama-bpe": ["12", "3", "4", "5"],  # 123, 45
    },
    "x 12": {
        "gpt-2": ["x", "Ġ", "12"],
        "smollm": ["x", "Ġ", "1", "2"],
        "qwen2": ["x", "Ġ", "1", "2"],
        "llama-bpe": ["x", "Ġ", "12"],
    },
    "a\n\nb": {
        "gpt-2": ["a", "Ċ", "Ċ", "b"],
        "smollm": ["a", "Ċ", "Ċ", "b"],
        "qwen2": ["a", "ĊĊ", "b"],
        "llama-bpe": ["a", "ĊĊ", "b"],
    },
    "a!\n": {
        "gpt-2": ["a", "!", "Ċ"],
        "smollm": ["a", "!", "Ċ"],
        "qwen2": ["a", "!Ċ"],
        "llama-bpe": ["a", "!Ċ"],
    },
    "I'M": {
        "gpt-2": ["I", "'", "M"],
        "smollm": ["I", "'", "M"],
        "qwen2": ["I", "'M"],
        "llama-bpe": ["I", "'M"],
    },
    "I'm": {pre: ["I", "'m"] for pre in ("gpt-2", "smollm", "qwen2", "llama-bpe")},
    "word": {
        "gpt-2": ["w", "o", "r", "d"],
        "smollm": ["w", "o", "r", "d"],
        "qwen2": ["w", "o", "r", "d"],
        "llama-bpe": ["word"],  # a whole piece that is a token needs no merges
    },
}
MERGES = ["3 4", "1 2", "Ċ Ċ", "! Ċ", "' M", "' m"]


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "starcoder", "qwen2", "llama-bpe"])
def test_pre_tokenizers_cut_as_their_rules_say(tmp_path, pre):
    vocabulary = byte_vocabulary(MERGES, whole=["word"], pre=pre, add_bos=False)
    tokenizer = write_tokenizer(tmp_path / "model.gguf", vocabulary)
    for text, pieces in PIECES.items():
        ids = tokenizer(text)["input_ids"]
        expected = pieces["smollm" if pre == "starcoder" else pre]
        assert [vocabulary.tokens[i] for i in ids] == expected, text
        assert tokenizer.decode(ids) == text


def test_gpt2_ids_equal_an_independent_tokenizer(tmp_path, sentences):
    independent = ByteLevelBPETokenizer()
    independent.train_from_iterator(sentences[:2000], vocab_size=600, show_progress=False)
    state = json.loads(independent.to_str())["model"]
    tokens = sorted(state["vocab"], key=state["vocab"].get)
    merges = [" ".join(pair) for pair in state["merges"]]
    vocabulary = Vocabulary(tokens, merges, [NORMAL] * len(tokens))
    tokenizer = write_tokenizer(tmp_path / "model.gguf", vocabulary)
    texts = [
        *sentences[2000:2200],
        "In 1999,  two\n\n\tspaces",
        "Où ça? 你好 🎭",
        "we'll WE'LL",
        " ",
    ]
    ids = tokenizer(texts)["input_ids"]
    assert ids == [independent.encode(text).ids for text in texts]
    assert max(map(max, ids)) > len(ALPHABET)


@pytest.mark.parametrize(
    ("pre", "add_bos", "has_bos"),
    [
        ("gpt-2", True, True),
        ("gpt-2", False, False),
        ("gpt-2", None, False),
        ("llama-bpe", False, False),
        ("llama-bpe", None, True),  # llama.cpp's default for this family
    ],
)
def test_add_bos_token_is_honoured(tmp_path, pre, add_bos, has_bos):
    bos = len(ALPHABET) + 1
    vocabulary = byte_vocabulary(special=["<s>"], pre=pre, bos=bos, add_bos=add_bos)
    tokenizer = write_tokenizer(tmp_path / "model.gguf", vocabulary)
    a = ALPHABET.index("a")
    assert tokenizer("a")["input_ids"] == [bos] * has_bos + [a]
    assert tokenizer("a", add_special_tokens=False)["input_ids"] == [a]
    assert tokenizer.bos_token == "<s>"


def test_add_eos_token_is_honoured(tmp_path):
    vocabulary = byte_vocabulary(special=["<s>"], pre="gpt-2")
    eos = vocabulary.tokens.index("<s>")
    path = tmp_path / "model.gguf"
    extra = [("add_eos_token_id", eos), ("add_add_eos_token", True)]
    write_gguf(path, gpt2_checkpoint(), vocabulary=vocabulary, extra=extra)
    assert GGUFFile(path).tokenizer()("a")["input_ids"] == [ALPHABET.index("a"), eos]


def test_head_counts_by_layer_are_refused(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path, gpt2_checkpoint(), heads=[HEADS] * LAYERS)
    assert_model_error(lambda: GGUFFile(path).config(), path, "head counts that differ")


def test_add_bos_token_without_its_id_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path, gpt2_checkpoint(), vocabulary=byte_vocabulary(add_bos=True))
    assert_model_error(lambda: GGUFFile(path).tokenizer(), path, "tokenizer.ggml.bos_token_id")


def test_a_special_token_that_is_none_of_the_tokens_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path, gpt2_checkpoint(), vocabulary=byte_vocabulary(bos=10_000))
    assert_model_error(lambda: GGUFFile(path).tokenizer(), path, "bos token 10000 is none of its")


def test_special_and_user_defined_tokens_are_single_ids(tmp_path):
    vocabulary = byte_vocabulary(special=["<|end|>"], user_defined=["<tool>"])
    tokenizer = write_tokenizer(tmp_path / "model.gguf", vocabulary)
    end, tool = len(ALPHABET) + 1, len(ALPHABET) + 2
    ids = tokenizer("a<tool>b<|end|>")["input_ids"]
    assert ids == [ALPHABET.index("a"), tool, ALPHABET.index("b"), end]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a<tool>b"


@pytest.mark.parametrize("pre", ["default", "deepseek-llm"])
def test_unsupported_pre_tokenizer_is_refused(tmp_path, pre):
    path = tmp_path / "model.gguf"
    write_gguf(path, gpt2_checkpoint(), vocabulary=byte_vocabulary(pre=pre))
    assert_model_error(lambda: GGUFFile(path).tokenizer(), path, pre)


def test_merge_of_unknown_tokens_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    vocabulary = byte_vocabulary(["a b"])
    vocabulary.tokens[-1] = "ac"
    write_gguf(path, gpt2_checkpoint(), vocabulary=vocabulary)
    assert_model_error(lambda: GGUFFile(path).tokenizer(), path, "tokenizer")


@pytest.mark.parity
def test_smollm2_ids_equal_transformers(smollm2_tokenizer, sentences):
    pytest.importorskip("torch")
    from transformers import AutoTokenizer

    path = _smollm2_file()
    reference = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    texts = [text for text in sentences if not any(c.isdigit() for c in text)][::40][:1000]
    assert len(texts) == 1000
    assert smollm2_tokenizer(texts)["input_ids"] == reference(texts)["input_ids"]


def test_smollm2_splits_digits_one_by_one(smollm2_tokenizer):
    ids = smollm2_tokenizer("in 1999, 40x")["input_ids"]
    pieces = ["in", "Ġ", "1", "9", "9", "9", ",", "Ġ", "4", "0", "x"]
    assert smollm2_tokenizer.convert_ids_to_tokens(ids) == pieces


@pytest.mark.parametrize(
    "text",
    [
        "O Romeo, Romeo! wherefore art thou Romeo?",
        "Act 3, scene 1: 1599 lines, 3.14",
        "two  spaces   three\n\nlines\r\n\ttab ",
        " leading , spaced . I 'm n't",
        "naïve café — 你好 🎭 e\u0301",
    ],
)
def test_smollm2_decodes_what_it_encodes(smollm2_tokenizer, text):
    assert smollm2_tokenizer.decode(smollm2_tokenizer(text)["input_ids"]) == text


def test_smollm2_special_tokens_are_single_ids(smollm2_tokenizer):
    ids = smollm2_tokenizer("<|im_start|>user<|im_end|>")["input_ids"]
    pieces = smollm2_tokenizer.convert_ids_to_tokens(ids)
    assert pieces == ["<|im_start|>", "user", "<|im_end|>"]
    assert smollm2_tokenizer.decode(ids, skip_special_tokens=True) == "user"


# --- broken files


def test_truncated_gguf_is_refused_wherever_it_is_cut(tmp_path):
    whole, cut = tmp_path / "whole.gguf", tmp_path / "cut.gguf"
    write_gguf(whole, gpt2_checkpoint(vocab_size=32), vocabulary=byte_vocabulary(["a b"]))
    content = whole.read_bytes()
    assert load_model(str(whole)).dim == 32
    reader = GGUFFile(whole)._reader
    data, end = reader.data_offset, max(t.data_offset + t.n_bytes for t in reader.tensors)
    header = range(25)
    metadata = range(25, data, 211)
    tensors = [data - 1, *np.linspace(data, end - 1, 20, dtype=int).tolist()]
    for size in (*header, *metadata, *tensors):
        cut.write_bytes(content[:size])
        assert_model_error(lambda: load_model(str(cut)), cut)


def test_gguf_with_damaged_text_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path, gpt2_checkpoint(), vocabulary=byte_vocabulary())
    content = path.read_bytes()
    assert content.count(b"t h") == 1  # the only merge
    path.write_bytes(content.replace(b"t h", b"t \xff"))
    assert_model_error(lambda: load_model(str(path)), path, "tokenizer.ggml.merges", "damaged")


@pytest.mark.parametrize("byte", range(2, 8))
def test_gguf_with_a_damaged_array_length_is_refused_at_once(tmp_path, byte):
    path = tmp_path / "model.gguf"
    write_gguf(path, gpt2_checkpoint(vocab_size=32), vocabulary=byte_vocabulary())
    content, key = bytearray(path.read_bytes()), b"tokenizer.ggml.token_type"
    length = content.index(key) + len(key) + 8  # past the types of the value and its elements
    (before,) = np.frombuffer(content[length : length + 8], np.uint64)
    assert before == len(byte_vocabulary().types)
    content[length + byte] = 1
    path.write_bytes(content)
    assert_model_error(lambda: GGUFFile(path), path, f"{before + (1 << 8 * byte)} numbers")


def test_text_named_gguf_is_refused(tmp_path):
    path = tmp_path / "poem.gguf"
    path.write_text("Shall I compare thee to a summer's day?\n" * 50)
    assert_model_error(lambda: load_model(str(path)), path, "GGUF", "magic")
