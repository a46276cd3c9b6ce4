"""Weights of a GGUF, and GGUF files that are refused."""

import hashlib

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fisher_jax.models.files.gguf_file import GGUFFile
from fisher_jax.models.files.huggingface import load_folder
from fisher_jax.models.load import load_model
from tests.helpers.gguf_files import ALPHABET, F16, F32, Q4_0, Q8_0, byte_vocabulary, write_gguf
from tests.helpers.small_models import (
    CONTEXT,
    HEADS,
    LAYERS,
    assert_model_error,
    assert_same_parameters,
    gpt2_checkpoint,
    llama_checkpoint,
)


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
        (rope,) = GGUFFile(tmp_path / "model.gguf").config().ropes
        return rope.scaling

    factor = ("add_rope_scaling_factor", 8.0)
    assert scaling() == 1.0
    assert scaling(factor) == 8.0  # without a type it is linear
    assert scaling(factor, ("add_rope_scaling_type", gguf.RopeScalingType.NONE)) == 1.0
    assert scaling(("add_rope_scaling_factor", 0.0)) == 1.0


@pytest.mark.parametrize(
    ("extra", "part"),
    [
        ([("add_rope_scaling_type", gguf.RopeScalingType.LONGROPE)], "longrope"),
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
    write_gguf(path, llama_checkpoint(), architecture="mamba")  # and without a tokenizer
    assert_model_error(lambda: load_model(str(path)), path, "architecture 'mamba'")


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


def test_head_counts_by_layer_are_refused(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path, gpt2_checkpoint(), heads=[HEADS] * LAYERS)
    assert_model_error(lambda: GGUFFile(path).config(), path, "differ from layer to layer")


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


# --- parts, depth, damaged numbers


def split_in_two(whole, folder):
    """As gguf-split does: all metadata in the first part, the second block in the last."""
    reader = gguf.GGUFReader(whole)
    parts = [folder / f"model-0000{k}-of-00002.gguf" for k in (1, 2)]
    for k, part in enumerate(parts):
        writer = gguf.GGUFWriter(part, "gpt2")
        if k == 0:
            for field in reader.fields.values():
                if not field.name.startswith(("GGUF.", "general.architecture")):
                    kinds = [*field.types, None]
                    writer.add_key_value(field.name, field.contents(), kinds[0], kinds[1])
        writer.add_key_value("split.no", k, gguf.GGUFValueType.UINT16)
        writer.add_key_value("split.count", 2, gguf.GGUFValueType.UINT16)
        for tensor in reader.tensors:
            if ("blk.1." in tensor.name) == bool(k):
                writer.add_tensor(tensor.name, np.array(tensor.data))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return parts


def test_a_split_gguf_is_read_from_any_of_its_parts(tmp_path):
    whole = tmp_path / "whole.gguf"
    write_gguf(whole, gpt2_checkpoint(), vocabulary=byte_vocabulary())
    expected = load_model(str(whole)).module
    parts = split_in_two(whole, tmp_path)
    hashes = {load_model(str(part)).weights_sha256 for part in parts}
    assert hashes == {hashlib.sha256(b"".join(p.read_bytes() for p in parts)).hexdigest()}
    assert_same_parameters(load_model(str(parts[1])).module, expected)
    parts[1].unlink()
    assert_model_error(lambda: load_model(str(parts[0])), parts[1], "missing")
    renamed = parts[0].rename(tmp_path / "first.gguf")
    assert_model_error(lambda: load_model(str(renamed)), renamed, "part of a GGUF in 2 files")


@pytest.mark.parametrize("layers", [10**6, 2**32 - 1])
def test_more_layers_than_tensors_are_refused_at_once(tmp_path, layers):
    path = tmp_path / "model.gguf"
    write_gguf(path, gpt2_checkpoint(), extra=[("add_block_count", layers)])
    assert_model_error(lambda: GGUFFile(path).config(), path, f"{layers} layers")


def test_a_token_id_that_is_no_whole_number_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    extra = [("add_float32", "tokenizer.ggml.eos_token_id", 1.5)]
    write_gguf(path, gpt2_checkpoint(), vocabulary=byte_vocabulary(), extra=extra)
    assert_model_error(lambda: GGUFFile(path).tokenizer(), path, "eos token 1.5")
