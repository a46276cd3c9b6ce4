"""A Hugging Face folder (config.json, safetensors, tokenizer files) as a model."""

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jax.typing import DTypeLike
from safetensors import SafetensorError, safe_open

from fisher_jax.models.decoder import Decoder
from fisher_jax.models.errors import ModelError
from fisher_jax.models.families import all_families, family_of, of_model_type
from fisher_jax.models.families.family import JsonFields
from fisher_jax.models.files.advice import no_advice
from fisher_jax.models.files.assemble import Tensor, assemble, checked_sizes
from fisher_jax.models.files.tokenizer_probe import probe_tokenizer
from fisher_jax.util.excerpt import one_line

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
MOST_LAYERS = 10_000
_NOT_PARAMETERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")


def read_config(folder: Path) -> Any:
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
        if (family := of_model_type(raw["model_type"])) is None:
            known = ", ".join(f.model_types[0] for f in all_families().values())
            raise ModelError(
                f"{path}: model_type {raw['model_type']!r} is not supported, only {known} are: "
                "name another model, or embed the rows elsewhere and pass them as `embeddings`"
            )
        _refuse_quantised(raw, path)
        _check_depth(raw, path)
        return checked_sizes(family.from_json(JsonFields(raw, path)), path)
    except KeyError as error:
        raise ModelError(f"{path} lacks {error}: use the model's own config.json") from None
    except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"{path} is not a model's configuration ({one_line(error)}): get it anew"
        ) from None


def load_folder(folder: Path, dtype: DTypeLike) -> tuple[Decoder, list[Path]]:
    """The model of a folder, and its weights' files.

    Raises:
        ModelError: see `read_config` and `assemble`; also for weights that can't be read.
    """
    config = read_config(folder)
    files = weight_files(folder)
    family = family_of(config)
    tensors: dict[str, Tensor] = {}
    for file in files:
        for name, shape in _shapes(file).items():
            if not name.endswith(_NOT_PARAMETERS):
                short = name.removeprefix(family.prefix)
                tensors[short] = Tensor(shape, lambda file=file, name=name: _read(file, name))
    if config.tied:  # writers store the shared matrix once or twice, under either name
        table = f"{family.names['embedding'].safetensors}.weight"
        head = tensors.pop(f"{family.names['untied_head'].safetensors}.weight", None)
        if head is not None:
            tensors.setdefault(table, head)
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
    if (serialised := folder / "tokenizer.json").is_file():
        _probed(serialised, serialised.stat())
    with no_advice():
        from transformers import AutoTokenizer  # imports torch where that is installed: seconds

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library's own errors have no common base
        raise ModelError(
            f"{folder}: its tokenizer can't be read ({one_line(error)}): get its files anew"
        ) from None


@functools.cache
def _probed(file: Path, _: object) -> None:
    """Once for a file as it is now."""
    probe_tokenizer(file)


def _refuse_quantised(raw: dict[str, Any], path: Path) -> None:
    quantisation = raw.get("quantization_config")
    if quantisation:
        method = quantisation.get("quant_method", "unknown")
        raise ModelError(
            f"{path}: its weights are quantised ({method}), which is not supported: "
            "use the model that was quantised, or a GGUF of it"
        )


def _check_depth(raw: dict[str, Any], path: Path) -> None:
    """Before anything is made for each layer."""
    for key in ("num_hidden_layers", "n_layer"):
        if isinstance(layers := raw.get(key), int) and layers > MOST_LAYERS:
            raise ModelError(f"{path}: {key} must be at most {MOST_LAYERS}, got more: get it anew")


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(file, framework="numpy") as handle:
            return {name: tuple(handle.get_slice(name).get_shape()) for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _unreadable(file, error) from None


def _read(file: Path, name: str) -> np.ndarray:
    """One tensor; the file is mapped no longer than that takes."""
    try:
        with safe_open(file, framework="numpy") as handle:
            kind = handle.get_slice(name).get_dtype()
            if not kind.startswith(("F64", "F32", "F16", "BF16")):
                raise ModelError(
                    f"{file}: tensor {name} is stored as {kind}: weights that are quantised are "
                    "not supported, use the model that was quantised, or a GGUF of it"
                )
            return handle.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: Exception) -> ModelError:
    return ModelError(f"{file} is not readable as safetensors ({error}): download it anew")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder's model.

    Raises:
        ModelError: none, or an index that names none of the folder.
    """
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
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ModelError(f"{index} is broken ({one_line(error)}): download it anew") from None
    for name in names:
        inside = isinstance(name, str) and Path(name).name == name
        if not inside or not os.path.isfile(folder / name):  # noqa: PTH113, False for any name
            raise ModelError(
                f"{index} names {name!r}, which is no file of that folder: "
                "download the missing part"
            )
    return [folder / name for name in names]
