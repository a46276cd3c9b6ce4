"""Rows from where a request says: a file, or Python's own."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fisher_jax.data import PoolError
from fisher_jax.data.pool_file import PoolFile, pool_of, read_pool
from fisher_jax.models import file_sha256
from fisher_jax.pipeline.request import Rows
from fisher_jax.util.files import unchanged


def read_rows(
    source: Rows,
    name: str,
    text_column: str | None = None,
    *,
    needs_text: bool = True,
    is_written: bool = False,
) -> PoolFile:
    """The rows of a file, or rows as they are; `name` is theirs in messages.

    Raises:
        PoolError: the file or a row of it can't be used.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        with unchanged(path):
            file = read_pool(path, text_column, needs_text=needs_text, is_written=is_written)
            return dataclasses.replace(file, sha256=file_sha256(path))
    if isinstance(source, Mapping) or hasattr(source, "columns"):
        raise PoolError(
            f"{name} must be a path or a list of rows, got one {type(source).__name__}: of a table "
            "pass a list of mappings"
        )
    return pool_of(source, name, text_column, needs_text=needs_text, is_written=is_written)


def facts_of(name: str, file: PoolFile | None) -> dict[str, Any]:
    """Path and hash of a file as it was read, for the manifest."""
    if file is None or not file.sha256:
        return {}
    return {name: str(file.path), f"{name}_sha256": file.sha256}
