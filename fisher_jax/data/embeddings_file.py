"""Ready embeddings in a safetensors file."""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from fisher_jax.data.example import PoolError
from fisher_jax.design import TokenEmbeddings


def read_embeddings(path: Path) -> TokenEmbeddings:
    """Embeddings of a safetensors file with `tokens` (T, D) and `offsets` (N + 1,).

    Raises:
        PoolError: no such file, not safetensors, or no valid `TokenEmbeddings`.
    """
    if not path.is_file():
        raise PoolError(f"there is no file {path}: --embeddings takes a .safetensors file")
    try:
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
            if names != {"tokens", "offsets"}:
                raise PoolError(
                    f"{path} must hold tokens and offsets and nothing else, it holds "
                    f"{', '.join(sorted(names)) or 'nothing'}"
                )
            tokens, offsets = (np.asarray(file.get_tensor(n)) for n in ("tokens", "offsets"))
        return TokenEmbeddings(tokens, offsets)
    except (SafetensorError, OSError, AttributeError, TypeError) as error:  # numpy has no float8
        raise PoolError(
            f"{path} is not readable as safetensors ({error}): write it with "
            "safetensors.numpy.save_file"
        ) from None
    except ValueError as error:
        named = str(error) if isinstance(error, PoolError) else f"{path}: {error}"
        raise PoolError(named) from None
