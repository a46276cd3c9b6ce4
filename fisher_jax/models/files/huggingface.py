"""A Hugging Face folder (config.json, safetensors, tokenizer files) as a model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jax.typing import DTypeLike
from safetensors import SafetensorError, safe_open

from fisher_jax.models.files.assemble import ModelError, Tensor, assemble, checked_sizes
from fisher_jax.models.gpt2 import GPT2, GPT2Config
from fisher_jax.models.llama import Llama, Llama3Rope, LlamaConfig
from fisher_jax.util.excerpt import one_line

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_NOT_PARAMETERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")


def read_config(folder: Path) -> LlamaConfig | GPT2Config:
    """The sizes in config.json.

    Raises:
        ModelError: no such file, an unknown family, or an option that the forward passes lack.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(
            f"{folder} has no config.json: MODEL must be a folder as save_pretrained writes it"
        )
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        family = raw["model_type"]
        if family == "llama":
            return checked_sizes(_llama_config(raw, path), path)
        if family == "gpt2":
            return checked_sizes(_gpt2_config(raw, path), path)
    except KeyError as error:
        raise ModelError(f"{path} lacks {error}: use the model's own config.json") from None
    except (ValueError, TypeError, AttributeError, ZeroDivisionError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{path} is not a model's configuration ({error}): get it anew") from None
    raise ModelError(
        f"{path}: model_type {family!r} is not supported, only gpt2 and llama are: name another "
        "model, or embed the rows elsewhere and pass them as --embeddings"
    )


def load_folder(folder: Path, dtype: DTypeLike) -> tuple[Llama | GPT2, list[Path]]:
    """The model of a folder, and its weights' files.

    Raises:
        ModelError: see `read_config` and `assemble`; also for weights that can't be read.
    """
    config = read_config(folder)
    files = _weight_files(folder)
    prefix = "model." if isinstance(config, LlamaConfig) else "transformer."
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            handle = safe_open(file, framework="flax")
            for name in handle.keys():  # noqa: SIM118  (not a mapping)
                if name.endswith(_NOT_PARAMETERS):
                    continue
                shape = tuple(handle.get_slice(name).get_shape())
                tensors[name.removeprefix(prefix)] = Tensor(
                    shape, lambda handle=handle, name=name: handle.get_tensor(name)
                )
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{file} is not readable as safetensors ({error}): download it anew"
            ) from None
    if config.tied:
        tensors.pop("lm_head.weight", None)  # some writers store the shared matrix twice
    return assemble(config, tensors, "safetensors", dtype, str(folder)), files


def load_tokenizer(folder: Path) -> Callable[..., Any]:
    """The folder's own tokenizer; code that a folder may bring is never run.

    Raises:
        ModelError: no tokenizer files, or broken ones.
    """
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(
            f"{folder} has no tokenizer ({', '.join(TOKENIZER_FILES)}): "
            "copy it there from the model's source"
        )
    from transformers import AutoTokenizer  # imports torch where that is installed: seconds

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library's own errors have no common base
        raise ModelError(
            f"{folder}: its tokenizer can't be read ({one_line(error)}): get its files anew"
        ) from None


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    if not index.is_file():
        raise ModelError(
            f"{folder} has no model.safetensors: save the model in that format "
            "(save_pretrained does)"
        )
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{index} is broken ({one_line(error)}): download it anew") from None
    for name in names:
        inside = isinstance(name, str) and Path(name).name == name
        if not inside or not (folder / name).is_file():
            raise ModelError(
                f"{index} names {name!r}, which is no file of that folder: "
                "download the missing part"
            )
    return [folder / name for name in names]


def _llama_config(raw: dict[str, Any], path: Path) -> LlamaConfig:
    _require(path, raw, hidden_act=("silu", "swish"))
    heads = raw["num_attention_heads"]
    theta, scaling = _rope(raw, path)
    return LlamaConfig(
        vocab=raw["vocab_size"],
        dim=raw["hidden_size"],
        n_layers=raw["num_hidden_layers"],
        n_heads=heads,
        n_kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or raw["hidden_size"] // heads,
        mlp_dim=raw["intermediate_size"],
        context=raw.get("max_position_embeddings", 2048),
        norm_eps=raw.get("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        tied=raw.get("tie_word_embeddings", False),
        attention_bias=raw.get("attention_bias", False),
        mlp_bias=raw.get("mlp_bias", False),
    )


def _rope(raw: dict[str, Any], path: Path) -> tuple[float, float | Llama3Rope]:
    rope = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
    theta = float(rope.get("rope_theta") or raw.get("rope_theta") or 10000.0)
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise ModelError(f"{path}: rotary embeddings on part of a head are not supported")
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return theta, 1.0
    if kind == "linear":
        return theta, float(rope["factor"])
    if kind == "llama3":
        return theta, Llama3Rope(
            rope["factor"],
            rope["low_freq_factor"],
            rope["high_freq_factor"],
            rope["original_max_position_embeddings"],
        )
    raise ModelError(
        f"{path}: RoPE scaling {kind!r} is not supported; default, linear and llama3 are"
    )


def _gpt2_config(raw: dict[str, Any], path: Path) -> GPT2Config:
    _require(
        path,
        raw,
        activation_function=("gelu_new", "gelu_pytorch_tanh"),
        scale_attn_weights=(True,),
        scale_attn_by_inverse_layer_idx=(False,),
        add_cross_attention=(False,),
    )
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


def _require(path: Path, raw: dict[str, Any], **allowed: tuple) -> None:
    for key, values in allowed.items():
        if raw.get(key, values[0]) not in values:
            raise ModelError(f"{path}: {key} = {raw[key]!r} is not supported, only {values} is")
