"""The chosen rows as a file: with every column, in order of choice, and their rank and gain."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fisher_jax.data.contents import Content, Lines, Records, Table
from fisher_jax.data.example import PoolError
from fisher_jax.data.pool_file import PoolFile
from fisher_jax.data.rows import GAIN, RANK, RANKS, WEIGHT
from fisher_jax.data.sets import package_of_sets, without_bars
from fisher_jax.util.excerpt import one_line

Added = dict[str, Sequence[Any]]
# of bytes, NaN, the year 10000, a type that Arrow can't take from
_MISFITS = TypeError, ValueError, OverflowError, RecursionError, pa.ArrowException


@runtime_checkable
class Writer(Protocol):
    """How chosen rows are written."""

    def check(self, out: Path, pool: PoolFile) -> None:
        """Can the format hold the columns of all rows?

        Raises:
            PoolError: a column that it can't hold.
        """
        ...

    def write(self, path: Path, content: Content, rows: Sequence[int], added: Added) -> None:
        """The rows, with values of added columns; the same errors as the content's."""
        ...


class JsonLinesWriter:
    """An object a line: a line of JSONL to the letter, the added columns at its end."""

    before, between, after = "", "\n", "\n"

    def check(self, out: Path, pool: PoolFile) -> None:
        """See `Writer`: only what comes from a table may not fit."""
        if isinstance(pool.content, Lines):
            return
        for begin in range(0, len(pool), 4096):  # never all rows as Python objects
            rows = range(begin, min(begin + 4096, len(pool)))
            with _telling(out, pool.path, "a .parquet"):
                pool.content.json_lines(rows, pool.replaced)

    def write(self, path: Path, content: Content, rows: Sequence[int], added: Added) -> None:
        """See `Writer`."""
        lines = content.json_lines(rows, RANKS)
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.write(self.before)
            for k, line in enumerate(lines):
                comma = ", " if line[1:-1].strip() else ""
                columns = json.dumps({name: values[k] for name, values in added.items()})
                end = self.between if k + 1 < len(lines) else self.after
                file.write(f"{line[:-1]}{comma}{columns[1:]}{end}")


class JsonArrayWriter(JsonLinesWriter):
    """One array, an object a line of it."""

    before, between, after = "[\n", ",\n", "\n]\n"


class ParquetWriter:
    """A table with the pool's types; of JSON those that Arrow finds for all rows."""

    def check(self, out: Path, pool: PoolFile) -> None:
        """See `Writer`: by a table of no rows."""
        remedy = "another format" if isinstance(pool.content, Table) else "a .jsonl"
        with _telling(out, pool.path, remedy, OSError):  # Arrow's of a form that is nested deeply
            self.check_types(out, pool.content.table([0], pool.replaced).slice(0, 0))

    def check_types(self, out: Path, empty: pa.Table) -> None:
        """Write no rows, and read them; the errors are Arrow's."""
        sink = pa.BufferOutputStream()
        pq.write_table(empty, sink)  # not every type has a form
        pq.read_table(pa.BufferReader(sink.getvalue()))  # nor can every form be read

    def write(self, path: Path, content: Content, rows: Sequence[int], added: Added) -> None:
        """See `Writer`."""
        pq.write_table(_with(content.table(rows, RANKS), added), path)


class SavedSetWriter(ParquetWriter):
    """A folder that the package datasets loads from disk."""

    def check(self, out: Path, pool: PoolFile) -> None:
        """See `Writer`."""
        package_of_sets(str(out))  # a missing one is told as that
        super().check(out, pool)

    def check_types(self, out: Path, empty: pa.Table) -> None:
        """The package has no form for maps, and none for some names."""
        _as_set(out, empty)

    def write(self, path: Path, content: Content, rows: Sequence[int], added: Added) -> None:
        """See `Writer`."""
        whole = _as_set(path, _with(content.table(rows, RANKS), added))
        with without_bars(package_of_sets(str(path))):
            whole.save_to_disk(path)


WRITERS: dict[str, Writer] = {
    "": SavedSetWriter(),
    ".jsonl": JsonLinesWriter(),
    ".ndjson": JsonLinesWriter(),
    ".json": JsonArrayWriter(),
    ".parquet": ParquetWriter(),
}


def write_selection(
    path: Path,
    out: Path,
    pool: PoolFile | None,
    ranking: np.ndarray,
    gains: np.ndarray,
    weights: np.ndarray | None = None,
) -> None:
    """The chosen rows in order of choice with every column kept, and their rank and gain.

    Args:
        path: where they are written, for example beside `out`.
        out: the name that they will have, which ends as one of `WRITERS`; without an ending a
            folder.
        pool: the pool's file; None for embeddings without one, whose rows are `{index}`.
        ranking: (n,) rows of the pool.
        gains: (n,) nats.
        weights: (n,) of each row in the loss, a column of their own if given.

    Raises:
        PoolError: a column that the output's format can't hold.
    """
    added: Added = {RANK: range(len(ranking)), GAIN: [float(gain) for gain in gains]}
    if weights is not None:
        added[WEIGHT] = [float(weight) for weight in weights]
    rows: Sequence[int] = [int(i) for i in ranking]
    content: Content | None = None if pool is None else pool.content
    if content is None:
        content, rows = Records("", [{"index": i} for i in rows], rows), range(len(rows))
    with _telling(out, "the pool" if pool is None else pool.path, "another format"):
        WRITERS[out.suffix].write(path, content, rows, added)


def check_columns_fit(out: Path, pool: PoolFile) -> None:
    """Before any work is done: can the output's format hold the columns of all rows?

    Raises:
        PoolError: a column that it can't hold.
    """
    WRITERS[out.suffix].check(out, pool)


def _as_set(path: Path, table: pa.Table) -> Any:
    """A table as a `datasets.Dataset`."""
    datasets = package_of_sets(str(path))
    return datasets.Dataset(datasets.table.InMemoryTable(table))


def _with(table: pa.Table, added: Added) -> pa.Table:
    for name, values in added.items():
        kind = pa.int64() if name == RANK else pa.float64()
        table = table.append_column(name, pa.array(values, kind))
    return table


@contextlib.contextmanager
def _telling(out: Path, pool: str, remedy: str, *more: type[Exception]) -> Iterator[None]:
    """What a format can't hold, as a PoolError; `more` errors that mean it here."""
    try:
        yield
    except (*_MISFITS, *more) as error:
        raise PoolError(
            f"{out} can't hold {pool}'s columns ({one_line(error)}): write {remedy} instead"
        ) from None
