"""A model as a Hugging Face folder, which `load_model` and transformers read."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import save_file

from fisher_jax.models.decoder import Decoder, Sizes
from fisher_jax.models.errors import ModelError
from fisher_jax.models.families import family_of
from fisher_jax.models.files.assemble import slots_of
from fisher_jax.models.load import LanguageModel
from fisher_jax.util.excerpt import one_line
from fisher_jax.util.files import remove_leftovers, replacing_folder

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
        remove_leftovers(folder)
        with replacing_folder(folder) as new:
            _write(model, new)
    except (OSError, SafetensorError) as error:
        reason = one_line(error)
        raise ModelError(
            f"the model can't be written to {folder} ({reason}): mend that or name another folder"
        ) from None


def named_tensors(module: Decoder) -> dict[str, np.ndarray]:
    """The parameters by their Hugging Face names, one tensor a layer, in its order of axes."""
    family = family_of(module.config)
    leaves = {path: leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(module))}
    slots = slots_of({path: leaf.shape for path, leaf in leaves.items()}, family, "safetensors")
    tensors: dict[str, np.ndarray] = {}
    for path, slot in slots.items():
        value = np.asarray(leaves[path])
        layers = value if path[0] == "layers" else value[None]
        prefix = "" if path[0] == "untied_head" else family.prefix
        for name, array in zip(slot.names, layers, strict=True):
            rows = np.ascontiguousarray(array.T if slot.is_turned else array)
            if rows.shape != slot.shape:  # of a tensor that several modules share
                whole = tensors.setdefault(prefix + name, np.empty(slot.shape, rows.dtype))
                whole[slot.rows] = rows
            else:
                tensors[prefix + name] = rows
    return tensors


def config_fields(config: Sizes) -> dict[str, Any]:
    """The sizes as config.json has them."""
    family = family_of(config)
    named = {
        "architectures": [family.transformers_class],
        "model_type": family.model_types[0],
    }
    return named | family.to_json(config)


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
