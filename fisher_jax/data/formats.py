"""The formats of pool files: a class each, behind one protocol."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from fisher_jax.data.contents import (
    AS_WRITTEN,
    Content,
    Lines,
    Table,
    TextLines,
    parsed,
    past_space,
)
from fisher_jax.data.example import PoolError
from fisher_jax.data.places import Source
from fisher_jax.data.rows import Rows
from fisher_jax.data.shapes import Columns
from fisher_jax.util.excerpt import one_line
from fisher_jax.util.memory import physical_memory

_BATCH = 4096  # rows of a table that are Python objects at once
_ROW_BYTES = 64  # of a row in memory, at least


@runtime_checkable
class Format(Protocol):
    """How the bytes of a file are read as rows."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of names of such files."""
        ...

    def read(self, source: Source, rows: Rows) -> Content:
        """The file's rows, each told to `rows`, less those that it refuses.

        Raises:
            PoolError: the file, or a row that may not be skipped, can't be used.
        """
        ...


class JsonLines:
    """An object a line; blank lines are left out."""

    suffixes = (".jsonl", ".ndjson")

    def read(self, source: Source, rows: Rows) -> Lines:
        """See `Format`; a file that begins like an array is one."""
        text_lines = _lines(source, rows)
        first = next((line for line in text_lines if line.strip()), "")
        if first.lstrip().startswith("["):
            return JsonArray().read_text("\n".join(text_lines), source, rows)
        _check_one_object(text_lines, first, source.name, rows)
        rows.begin(source.name, "line")
        lines, numbers = [], []
        for number, line in enumerate(text_lines, start=1):
            if not line or line.isspace():
                continue
            try:
                record = parsed(line)
            except (ValueError, RecursionError) as error:
                remedy = "mend or remove the line, or pass `skip_bad`"
                rows.refuse(number, f"is not JSON ({_reason(error)})", remedy)
                continue
            if rows.add(record, number):
                lines.append(line)
                numbers.append(number)
        return Lines(source.name, lines, numbers)


class JsonArray:
    """One array of objects, or an object a line."""

    suffixes = (".json",)

    def read(self, source: Source, rows: Rows) -> Lines:
        """See `Format`."""
        return JsonLines().read(source, rows)

    def read_text(self, text: str, source: Source, rows: Rows) -> Lines:
        """The array's objects, each with the number of the line that it begins in."""
        rows.begin(source.name, "line")
        lines, numbers = [], []
        number, before = 1, 0
        for begin, end in _elements(text, source.name):
            number += text.count("\n", before, begin)
            before = begin
            line = text[begin:end].replace("\n", " ").replace("\r", " ")  # none within strings
            if rows.add(parsed(line), number):
                lines.append(line)
                numbers.append(number)
        return Lines(source.name, lines, numbers)


class PlainText:
    """A text a line."""

    suffixes = (".txt", ".text")

    def read(self, source: Source, rows: Rows) -> TextLines:
        """See `Format`."""
        if rows.columns.named:
            raise PoolError(
                f"{source.name} is plain text and has no columns: leave `text_column` out, and "
                "what else names columns"
            )
        rows.begin(source.name, "line")
        lines = [
            (number, line)
            for number, line in enumerate(_lines(source, rows), start=1)
            if rows.add({"text": line}, number)
        ]
        return TextLines(source.name, [line for _, line in lines], [number for number, _ in lines])


class Parquet:
    """A table of Parquet."""

    suffixes = (".parquet", ".pq")

    def read(self, source: Source, rows: Rows) -> Table:
        """See `Format`."""
        try:
            file = pq.ParquetFile(source.file())
            _check_room(source.name, file.metadata)
            table = file.read()
            if table.num_rows != file.metadata.num_rows:
                raise OSError(f"{table.num_rows} rows, its footer says {file.metadata.num_rows}")
            table.validate(full=True)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise PoolError(
                f"{source.name} is not readable as Parquet ({one_line(error)}): write it anew"
            ) from None
        return of_table(source.name, table, rows)


class Csv:
    """Values between commas, or tabs, below a line of names; all of them strings."""

    suffixes = (".csv", ".tsv")

    def read(self, source: Source, rows: Rows) -> Table:
        """See `Format`."""
        data = source.data().removeprefix(b"\xef\xbb\xbf")
        if not data.strip():
            raise PoolError(f"{source.name} is empty: a pool needs at least one row")
        _decoded(data, source.name)  # Arrow prints a traceback of its own for a row that is none
        rows.begin(source.name, "row")

        refused: list[Any] = []

        def refuse(row: Any) -> str:
            refused.append(row)  # an error here would be lost
            return "skip"

        parse = pc.ParseOptions(
            delimiter=_delimiter(source),
            newlines_in_values=True,
            invalid_row_handler=refuse,
        )
        read = pc.ReadOptions(use_threads=False, block_size=max(1 << 20, len(data) + 1))
        try:
            first = max(1 << 20, data.find(b"\n") + 1 or len(data))  # all names at least
            header = pc.ReadOptions(use_threads=False, block_size=first)
            names = pc.open_csv(io.BytesIO(data[:first]), header, parse).schema.names
            convert = pc.ConvertOptions(
                column_types=dict.fromkeys(names, pa.large_string()), strings_can_be_null=False
            )
            refused.clear()
            table = pc.read_csv(io.BytesIO(data), read, parse, convert)
        except pa.ArrowException as error:
            raise PoolError(
                f"{source.name} is not readable as CSV ({one_line(error)}): mend or convert it"
            ) from None
        for row in refused:
            what = f"has {row.actual_columns} values, not {row.expected_columns}"
            rows.refuse(row.number - 2, what)
        bad = {row.number - 2 for row in refused}  # numbered from 1, with the line of names
        kept = [i for i in range(table.num_rows + len(bad)) if i not in bad]
        return of_table(source.name, table, rows, kept)


FORMATS: tuple[Format, ...] = (JsonLines(), JsonArray(), PlainText(), Parquet(), Csv())
BY_SUFFIX = {suffix: of for of in FORMATS for suffix in of.suffixes}


def format_of(source: Source, columns: Columns | None = None) -> Format:
    """The format of a file: by its name, without one by its first bytes.

    Without a name it is CSV if its first line names the columns that are meant, and more.

    Raises:
        PoolError: a name that tells none.
    """
    if source.suffix in BY_SUFFIX:
        return BY_SUFFIX[source.suffix]
    if source.suffix:
        raise PoolError(
            f"{source.name}: its name must end in {', '.join(BY_SUFFIX)}, or in one of these and "
            ".gz, .bz2, .xz or .zst, to tell its format: rename or convert it"
        )
    start = source.data()[:64].removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"PAR1"):
        return Parquet()
    if start[:1] in (b"{", b"["):
        return JsonLines()
    return Csv() if _names_columns(source, columns or Columns()) else PlainText()


def _check_one_object(lines: Sequence[str], first: str, name: str, rows: Rows) -> None:
    """Refuse one object that holds the rows, or is written over several lines."""
    is_line = _object(first) is not None
    if is_line and (len(lines) > 1 or rows.columns.named or not rows.needs_text):
        return
    if (record := _object("\n".join(lines))) is None:
        return  # each line is told
    try:
        rows.columns.shape_of(record)
        within = None
    except PoolError:
        within = next((key for key, of in record.items() if isinstance(of, list) and of), None)
    if within or not is_line:
        remedy = f"take the array in its {within!r}" if within else "write it in one line"
        raise PoolError(f"{name} is one JSON object, not an array or an object a line: {remedy}")


def _object(text: str) -> dict[str, Any] | None:
    try:
        record = parsed(text)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _names_columns(source: Source, columns: Columns) -> bool:
    first = source.data()[: 1 << 16].removeprefix(b"\xef\xbb\xbf").decode(errors="replace")
    names = next(csv.reader(first.splitlines()[:1], delimiter=_delimiter(source)), [])
    try:
        columns.shape_of(names)
    except PoolError:
        return False
    return len(names) > 1 and all(re.fullmatch(r"[\w.-]+", name) for name in names)


def _delimiter(source: Source) -> str:
    is_tsv = source.suffix == ".tsv"
    if not source.suffix:
        is_tsv = b"\t" in source.data().split(b"\n", 1)[0]
    return "\t" if is_tsv else ","


def of_table(name: str, table: pa.Table, rows: Rows, numbers: Sequence[int] | None = None) -> Table:
    """A table's rows, those that can be used; `numbers` in the file, default 0 to n - 1."""
    if table.num_rows == 0:
        raise PoolError(f"{name} is empty: a pool needs at least one row")
    names = Counter(table.column_names)
    if twice := [column for column, count in names.items() if count > 1]:
        raise PoolError(f"{name} has several columns {twice[0]!r}: rename or drop one")
    table = _without_views(table)
    rows.begin(name, "row")
    shape = rows.shape_of(table.column_names, name)
    if shape is None:
        return Table(name, table, numbers)
    read = table.select([column for column in shape.reads if column in table.column_names])
    content, kept, at = Table(name, table, numbers), [], 0
    for batch in read.to_batches(_BATCH):
        for record in _records(batch, name):
            if rows.add(record, content.numbers[at]):
                kept.append(at)
            at += 1
    return content if len(kept) == len(content) else content.take(kept)


def _records(batch: pa.RecordBatch, name: str) -> list[dict[str, Any]]:
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException) as error:
        raise PoolError(
            f"{name}: its text can't be read ({one_line(error)}): name another column"
        ) from None


def _elements(text: str, name: str) -> Iterator[tuple[int, int]]:
    """Where each element of a JSON array begins and ends."""
    at, closed = past_space(text, text.index("[") + 1), False
    try:
        while not closed and text[at : at + 1] != "]":
            _, end = AS_WRITTEN.raw_decode(text, at)
            yield at, end
            at = past_space(text, end)
            closed = text[at : at + 1] == "]"
            if not closed:
                if text[at : at + 1] != ",":
                    raise json.JSONDecodeError("Expecting ',' or ']'", text, at)
                at = past_space(text, at + 1)
        if text[at + 1 :].strip():
            raise json.JSONDecodeError("Extra data", text, at + 1)
    except (ValueError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise PoolError(f"{name}{line} is not JSON ({_reason(error)}): mend the array") from None


def _reason(error: BaseException) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, column {error.colno}"
    return one_line(error)


def _lines(source: Source, rows: Rows) -> list[str]:
    """The lines of a file of text."""
    content = source.data().removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
    if not content.strip():
        raise PoolError(f"{source.name} is empty: a pool needs at least one row")
    lines = [line.removesuffix("\r") for line in _decoded(content, source.name).split("\n")]
    for number, line in enumerate(lines, start=1):
        if "\0" in line:
            raise PoolError(
                f"{source.name}, line {number} holds a zero byte: is this a binary file?"
            )
    return lines


def _decoded(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise PoolError(
            f"{name}, line {line} is not UTF-8 text ({error.reason}): is this a binary file? "
            "Convert it to UTF-8"
        ) from None


def _check_room(name: str, told: pq.FileMetaData) -> None:
    """Refuse a file whose rows can't fit into memory: a small one may hold millions."""
    unpacked = sum(told.row_group(i).total_byte_size for i in range(told.num_row_groups))
    if (needed := unpacked + _ROW_BYTES * told.num_rows) > (there := physical_memory()):
        raise PoolError(
            f"{name} has {told.num_rows:,} rows by its footer, which need {needed / 2**30:.1f} GiB "
            f"or more, this machine has {there / 2**30:.1f} GiB: split it, or write it anew"
        )


def _without_views(table: pa.Table) -> pa.Table:
    """String and binary views as plain ones, at any depth: Arrow can't take rows of views."""
    for i, field in enumerate(table.schema):
        if (kind := _plain(field.type)) != field.type:
            table = table.set_column(i, field.with_type(kind), table.column(i).cast(kind))
    return table


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type without views in it."""
    is_kind = pa.types
    if is_kind.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in kind])
    if is_kind.is_map(kind):
        key, item = (of.with_type(_plain(of.type)) for of in (kind.key_field, kind.item_field))
        return pa.map_(key, item, kind.keys_sorted)
    if is_kind.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_plain(kind.value_type)), kind.list_size)
    if is_kind.is_list(kind) or is_kind.is_large_list(kind):
        of = pa.list_ if is_kind.is_list(kind) else pa.large_list
        return of(kind.value_field.with_type(_plain(kind.value_type)))
    views = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    return views.get(kind, kind)
