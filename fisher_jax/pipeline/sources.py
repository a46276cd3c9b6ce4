"""Rows and embeddings from where a request says: a file, or Python's own."""

import os
from collections.abc import Mapping
from typing import Any

from fisher_jax.data import PoolError
from fisher_jax.data.formats import PlainText
from fisher_jax.data.places import Source
from fisher_jax.data.pool_file import PoolFile, is_set_name, pool_of, read_pool
from fisher_jax.data.sets import Part
from fisher_jax.data.shapes import Columns
from fisher_jax.design import TokenEmbeddings, as_embeddings
from fisher_jax.design.embeddings_file import read_embeddings
from fisher_jax.models import file_sha256
from fisher_jax.pipeline.request import SOURCES, Request, names_of, path_of
from fisher_jax.util.excerpt import counted
from fisher_jax.util.files import unchanged


def check_part(request: Request) -> None:
    """Refuse a split or a subset where no source has any.

    Raises:
        PoolError: with the option.
    """
    named = [name for source in SOURCES for name in names_of(getattr(request, source))]
    for option in ("split", "subset"):
        if getattr(request, option) is not None and not any(map(is_set_name, named)):
            raise PoolError(f"`{option}` is of a data set, and none is named: leave it out")


def read_rows(name: str, request: Request, *, needs_text: bool = True) -> PoolFile:
    """The rows that an option of a request names: of files, or as they are.

    Plain text has no columns: those that are told are of the request's other sources then.

    Raises:
        PoolError: a file or a row of it can't be used.
    """
    source = getattr(request, name)
    told = _columns(request)
    others = [getattr(request, other) for other in SOURCES if other != name]
    if _is_plain(source) and any(names_of(of) and not _is_plain(of) for of in others):
        told = Columns()
    reading: dict[str, Any] = {"needs_text": needs_text, "skip_bad": request.skip_bad}
    if names := names_of(source):
        return read_pool(names, told, part=Part(request.split, request.subset), **reading)
    if isinstance(source, (str, os.PathLike, Mapping)) or hasattr(source, "columns"):
        raise PoolError(
            f"{name} must be a path or a list of rows, got one {type(source).__name__}: of a "
            "DatasetDict take a split, of a table pass a list of mappings"
        )
    return pool_of(source, told, name=name, **reading)


def read_states(name: str, request: Request) -> tuple[TokenEmbeddings, dict[str, Any]]:
    """The embeddings that an option of a request names, or holds, and their file's hash.

    Raises:
        PoolError: no such file, or none of embeddings.
    """
    source = getattr(request, name)
    path = path_of(source)
    if path is None:
        return as_embeddings(source, name), {}
    with unchanged(path):
        return read_embeddings(path), {name: str(path), f"{name}_sha256": file_sha256(path)}


def _columns(request: Request) -> Columns:
    return Columns(
        request.format,
        request.text_column,
        request.messages_column,
        request.prompt_column,
        request.completion_column,
    )


def _is_plain(source: object) -> bool:
    """Whether a source is plain text, which has no columns."""
    return any(Source(name).suffix in PlainText.suffixes for name in names_of(source))


def facts_of(name: str, file: PoolFile | None) -> dict[str, Any]:
    """Name and hash of files as they were read, and what was made of them, for the manifest."""
    if file is None or not file.sha256:
        return {}
    facts: dict[str, Any] = {name: file.path, f"{name}_sha256": file.sha256}
    if file.rows is not None:
        facts[f"{name}_shape"] = file.shape
    if file.rows is not None or file.bad:
        facts[f"{name}_bad_rows"] = [*file.bad]
    return facts


def notes_of(file: PoolFile | None) -> list[str]:
    """A sentence on the rows of a source that can't be used and were left out."""
    if file is None or not file.bad:
        return []
    first = "; ".join(file.bad[:3])
    more = "; ..." if len(file.bad) > 3 else ""
    return [f"{counted(len(file.bad), 'bad row')} left out ({first}{more})."]
