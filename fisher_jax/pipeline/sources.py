"""Rows from where a request says: a file, or Python's own."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fisher_jax.data import PoolError
from fisher_jax.data.pool_file import PoolFile, pool_of, read_pool
from fisher_jax.models import file_sha256
from fisher_jax.pipeline.request import Rows, path_of


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
        return read_pool(Path(source), text_column, needs_text=needs_text, is_written=is_written)
    if isinstance(source, Mapping) or hasattr(source, "columns"):
        raise PoolError(
            f"{name} must be a path or a list of rows, got one {type(source).__name__}: of a table "
            "pass a list of mappings"
        )
    return pool_of(source, name, text_column, needs_text=needs_text, is_written=is_written)


def facts_of(name: str, source: Rows | None) -> dict[str, Any]:
    """Path and hash of a source that is a file, for the manifest."""
    path = path_of(source)
    return {} if path is None else {name: str(path), f"{name}_sha256": file_sha256(path)}
