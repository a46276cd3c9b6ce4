"""Rows from where a request says: a file, or Python's own."""

import os
from collections.abc import Mapping
from typing import Any

from fisher_jax.data import PoolError
from fisher_jax.data.pool_file import PoolFile, pool_of, read_pool
from fisher_jax.data.sets import Part
from fisher_jax.data.shapes import Columns
from fisher_jax.pipeline.request import Request, Rows, names_of


def read_rows(source: Rows, name: str, request: Request, *, needs_text: bool = True) -> PoolFile:
    """The rows of files, or rows as they are; `name` is theirs in messages.

    Raises:
        PoolError: a file or a row of it can't be used.
    """
    columns = Columns(
        request.format,
        request.text_column,
        request.messages_column,
        request.prompt_column,
        request.completion_column,
    )
    reading: dict[str, Any] = {"needs_text": needs_text, "skip_bad": request.skip_bad}
    if names := names_of(source):
        part = Part(request.split, request.subset)
        return read_pool(names, columns, part=part, **reading)
    if isinstance(source, (str, os.PathLike, Mapping)) or hasattr(source, "columns"):
        raise PoolError(
            f"{name} must be a path or a list of rows, got one {type(source).__name__}: of a table "
            "pass a list of mappings"
        )
    return pool_of(source, columns, name=name, **reading)


def facts_of(name: str, file: PoolFile | None) -> dict[str, Any]:
    """Name and hash of files as they were read, and what was made of them, for the manifest."""
    if file is None or not file.sha256:
        return {}
    facts: dict[str, Any] = {name: file.path, f"{name}_sha256": file.sha256}
    if file.rows is not None:
        facts |= {f"{name}_shape": file.shape, f"{name}_bad_rows": [*file.bad]}
    return facts
