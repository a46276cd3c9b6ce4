"""A model as a Hugging Face folder, which `load_model` and transformers read."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import save_file

from fisher_jax.models.files.assemble import GPT2_NAMES, LLAMA_NAMES, ModelError
from fisher_jax.models.gpt2 import GPT2, GPT2Config
from fisher_jax.models.llama import Llama, Llama3Rope, LlamaConfig
from fisher_jax.models.load import LanguageModel
from fisher_jax.util.excerpt import one_line
from fisher_jax.util.files import nearest_folder

_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def save_folder(model: LanguageModel, folder: Path, overwrite: bool = False) -> None:
    """Write config.json, generation_config.json, model.safetensors and the tokenizer's files.

    They are written into a temporary folder beside the wanted one, which takes its place at the
    end: a folder that is there is whole.

    Args:
        model: its parameters keep their type, float32 or bfloat16; a tied head is stored once.
        folder: a new or an empty one.
        overwrite: replace a folder that holds a model (a config.json) and all that is in it.

    Raises:
        ModelError: something is in the way, or can't be written; what was there is left.
    """
    folder = folder.resolve()
    _check_free(folder, overwrite)
    try:
        with tempfile.TemporaryDirectory(
            dir=nearest_folder(folder.parent), prefix=f".{folder.name}.", suffix=".tmp"
        ) as scratch:
            new, old = Path(scratch, "new"), Path(scratch, "old")
            new.mkdir()
            _write(model, new)
            folder.parent.mkdir(parents=True, exist_ok=True)
            if folder.exists():
                folder.rename(old)
            try:
                new.rename(folder)
            except OSError:
                if old.exists():
                    old.rename(folder)
                raise
    except (OSError, SafetensorError) as error:
        reason = one_line(error)
        raise ModelError(
            f"the model can't be written to {folder} ({reason}): mend that or name another folder"
        ) from None


def named_tensors(module: Llama | GPT2) -> dict[str, np.ndarray]:
    """The parameters by their Hugging Face names, one tensor a layer.

    A Llama's kernels are turned to (out, in); GPT-2's stay (in, out), as its Conv1D has them.
    """
    is_llama = isinstance(module, Llama)
    names, prefix = (LLAMA_NAMES, "model.") if is_llama else (GPT2_NAMES, "transformer.")
    tensors = {}
    for (*place, kind), leaf in nnx.to_flat_state(nnx.state(module)):
        name = names[".".join(map(str, place))].safetensors
        pattern = name if place[0] == "untied_head" else prefix + name
        suffix = "bias" if kind == "bias" else "weight"
        value = np.asarray(leaf[...])
        for layer, array in enumerate(value if place[0] == "layers" else value[None]):
            turned = array.T if kind == "kernel" and is_llama else array
            tensors[f"{pattern.format(layer)}.{suffix}"] = np.ascontiguousarray(turned)
    return tensors


def config_fields(config: LlamaConfig | GPT2Config) -> dict[str, Any]:
    """The sizes as config.json has them."""
    if isinstance(config, GPT2Config):
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": config.vocab,
            "n_embd": config.dim,
            "n_layer": config.n_layers,
            "n_head": config.n_heads,
            "n_inner": config.mlp_dim,
            "n_positions": config.context,
            "layer_norm_epsilon": config.norm_eps,
            "activation_function": "gelu_new",
            "tie_word_embeddings": config.tied,
        }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab,
        "hidden_size": config.dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.mlp_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": _rope_fields(config),
        "tie_word_embeddings": config.tied,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
    }


def _rope_fields(config: LlamaConfig) -> dict[str, Any]:
    scaling, theta = config.rope_scaling, {"rope_theta": config.rope_theta}
    if isinstance(scaling, Llama3Rope):
        return theta | {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context,
        }
    if scaling == 1:
        return theta | {"rope_type": "default"}
    return theta | {"rope_type": "linear", "factor": scaling}


def _write(model: LanguageModel, folder: Path) -> None:
    tokenizer: Any = model.tokenizer
    special = {name: getattr(tokenizer, name) for name in _SPECIAL}
    dtype = {"dtype": model.module.head.dtype.name}
    for name, content in (
        ("config.json", config_fields(model.module.config) | special | dtype),
        ("generation_config.json", special),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    save_file(named_tensors(model.module), folder / "model.safetensors", {"format": "pt"})
    tokenizer.save_pretrained(folder)


def _check_free(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise ModelError(f"{folder} is a file: name a folder for the model")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise ModelError(
            f"{folder} is not empty: name a new folder, or allow to overwrite the model in it"
        )
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} holds other files and no model, so it is not overwritten: name a new folder"
        )
