"""Ready embeddings in a safetensors file."""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fisher_jax.design.embeddings import TokenEmbeddings
from fisher_jax.util.errors import UserError
from fisher_jax.util.files import replacing


def read_embeddings(path: Path) -> TokenEmbeddings:
    """Embeddings of a safetensors file with `tokens` (T, D) and `offsets` (N + 1,).

    Raises:
        UserError: no such file, not safetensors, or no valid `TokenEmbeddings`.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}: `embeddings` takes a .safetensors file")
    try:
        with safe_open(path, framework="numpy") as file:
            names = sorted(file.keys())
            if names != ["offsets", "tokens"]:
                raise UserError(
                    f"{path} must hold tokens and offsets and nothing else, it holds "
                    f"{', '.join(names) or 'nothing'}"
                )
            offsets, tokens = (np.asarray(file.get_tensor(name)) for name in names)
    except (SafetensorError, OSError, AttributeError, TypeError) as error:  # numpy has no float8
        raise UserError(
            f"{path} is not readable as safetensors ({error}): write it with "
            "safetensors.numpy.save_file"
        ) from None
    try:
        return TokenEmbeddings(tokens, offsets)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def write_embeddings(emb: TokenEmbeddings, path: Path, dtype: str | None = None) -> None:
    """What `read_embeddings` reads; the file is there whole or not at all.

    Raises:
        UserError: another name or number type, or numbers that the type can't hold.
    """
    if path.suffix != ".safetensors":
        raise UserError(f"embeddings are written as .safetensors, got {path}")
    if dtype not in (None, "float16", "float32", "float64"):
        raise UserError(f"dtype must be 'float16', 'float32' or 'float64', got {dtype!r}")
    with np.errstate(over="ignore"):
        tokens = emb.tokens.astype(dtype or emb.dtype, copy=False)
    if not np.isfinite(tokens).all():
        raise UserError(f"{dtype} can't hold numbers as large as the embeddings': take float32")
    with replacing(path) as temporary:
        save_file({"tokens": np.ascontiguousarray(tokens), "offsets": emb.offsets}, temporary)
