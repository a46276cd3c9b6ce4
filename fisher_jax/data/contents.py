"""A pool as it stands in its files: rows with all their columns, to be written again."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from fisher_jax.data.example import PoolError

_DIGITS = 4000  # more in one integer are no Python integer


@runtime_checkable
class Content(Protocol):
    """Rows of one or more files."""

    def __len__(self) -> int:
        """How many rows."""
        ...

    def where(self, i: int) -> str:
        """Row i as a person would look for it."""
        ...

    def records(self, rows: Sequence[int], only: str | None = None) -> list[dict[str, Any]]:
        """Rows as dictionaries of all their columns, or `only` of one, where they have it.

        Raises:
            ValueError, OverflowError: a date that Python has no value for.
        """
        ...

    def json_lines(self, rows: Sequence[int], without: Sequence[str]) -> list[str]:
        """Rows as JSON objects, without some columns.

        Raises:
            ValueError, TypeError, OverflowError, ArrowException: a value that JSON can't hold.
        """
        ...

    def table(self, rows: Sequence[int], without: Sequence[str]) -> pa.Table:
        """Rows as a table, without some columns; the types don't depend on the choice.

        Raises:
            PoolError, OverflowError, UnicodeEncodeError, ArrowException: columns that no table
                can hold.
        """
        ...


class Lines:
    """JSON objects as they are written, to keep every column to the letter."""

    def __init__(self, name: str, lines: Sequence[str], numbers: Sequence[int]) -> None:
        self.name, self.lines, self.numbers = name, lines, numbers

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, i: int) -> str:
        """File and line."""
        return f"{self.name}, line {self.numbers[i]}"

    def records(self, rows: Sequence[int], only: str | None = None) -> list[dict[str, Any]]:
        """The lines' objects."""
        return _with(only, [parsed(self.lines[i]) for i in rows])

    def json_lines(self, rows: Sequence[int], without: Sequence[str] = ()) -> list[str]:
        """The lines as they are; of those with a column that goes the others."""
        return [_without(self.lines[i].strip(), without) for i in rows]

    def table(self, rows: Sequence[int], without: Sequence[str] = ()) -> pa.Table:
        """Columns of all lines' names, null where a line lacks one."""
        return table_of(self.records(range(len(self))), without).take(pa.array(rows, pa.int64()))


class TextLines(Lines):
    """Lines of plain text, each a row with the column `text`."""

    def records(self, rows: Sequence[int], only: str | None = None) -> list[dict[str, Any]]:
        """`{"text": line}`."""
        return _with(only, [{"text": self.lines[i]} for i in rows])

    def json_lines(self, rows: Sequence[int], without: Sequence[str] = ()) -> list[str]:
        """The records as JSON."""
        return [as_json(record) for record in self.records(rows)]

    def table(self, rows: Sequence[int], without: Sequence[str] = ()) -> pa.Table:
        """One column."""
        return pa.table({"text": pa.array([self.lines[i] for i in rows], pa.string())})


class Records:
    """Rows given in Python."""

    def __init__(
        self, name: str, rows: Sequence[Mapping[str, Any]], numbers: Sequence[int]
    ) -> None:
        self.name, self.rows, self.numbers = name, rows, numbers

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, i: int) -> str:
        """Which of the rows."""
        return f"{self.name}, row {self.numbers[i]}"

    def records(self, rows: Sequence[int], only: str | None = None) -> list[dict[str, Any]]:
        """The rows."""
        return _with(only, [dict(self.rows[i]) for i in rows])

    def json_lines(self, rows: Sequence[int], without: Sequence[str] = ()) -> list[str]:
        """The rows as JSON."""
        return [
            as_json({name: value for name, value in record.items() if name not in without})
            for record in self.records(rows)
        ]

    def table(self, rows: Sequence[int], without: Sequence[str] = ()) -> pa.Table:
        """Columns of all rows' names, null where a row lacks one."""
        return table_of(self.rows, without).take(pa.array(rows, pa.int64()))


class Table:
    """A table of Arrow: Parquet, CSV, a data set of the package datasets."""

    def __init__(self, name: str, content: pa.Table, numbers: Sequence[int] | None = None) -> None:
        self.name, self.content = name, content
        self.numbers = range(content.num_rows) if numbers is None else numbers

    def __len__(self) -> int:
        return self.content.num_rows

    def where(self, i: int) -> str:
        """File and row, from 0."""
        return f"{self.name}, row {self.numbers[i]}"

    def records(self, rows: Sequence[int], only: str | None = None) -> list[dict[str, Any]]:
        """The rows in Python's types."""
        if only is None:
            return taken(self.content, rows).to_pylist()
        if only not in self.content.column_names:
            return [{} for _ in rows]
        return taken(self.content.select([only]), rows).to_pylist()

    def json_lines(self, rows: Sequence[int], without: Sequence[str] = ()) -> list[str]:
        """The rows as JSON; dates and decimals as strings."""
        return [as_json(record) for record in self.table(rows, without).to_pylist()]

    def table(self, rows: Sequence[int], without: Sequence[str] = ()) -> pa.Table:
        """The rows with their types as they are."""
        table = taken(self.content, rows)
        return table.drop_columns([name for name in without if name in table.column_names])

    def take(self, rows: Sequence[int]) -> "Table":
        """Some of the rows, which keep their numbers."""
        return Table(self.name, taken(self.content, rows), [self.numbers[i] for i in rows])


class Several:
    """Contents one after the other, as of several files."""

    def __init__(self, parts: Sequence[Content]) -> None:
        self._parts = parts
        self._at = [(part, i) for part in parts for i in range(len(part))]

    def __len__(self) -> int:
        return len(self._at)

    def where(self, i: int) -> str:
        """File and place in it."""
        part, at = self._at[i]
        return part.where(at)

    def records(self, rows: Sequence[int], only: str | None = None) -> list[dict[str, Any]]:
        """Each part's."""
        return self._by_part(rows, lambda part, at: part.records(at, only))

    def json_lines(self, rows: Sequence[int], without: Sequence[str] = ()) -> list[str]:
        """Each part's."""
        return self._by_part(rows, lambda part, at: part.json_lines(at, without))

    def table(self, rows: Sequence[int], without: Sequence[str] = ()) -> pa.Table:
        """All columns of the parts, null where a part lacks one."""
        tables = [part.table(range(len(part)), without) for part in self._parts]
        whole = pa.concat_tables(tables, promote_options="permissive")
        return taken(whole, rows)

    def _by_part(
        self, rows: Sequence[int], of_part: Callable[[Content, list[int]], list[Any]]
    ) -> list[Any]:
        """What each part gives for its rows, in the order of the rows."""
        places: dict[int, list[int]] = {}
        for k, i in enumerate(rows):
            places.setdefault(id(self._at[i][0]), []).append(k)
        values: list[Any] = [None] * len(rows)
        for at in places.values():
            part = self._at[rows[at[0]]][0]
            for k, value in zip(at, of_part(part, [self._at[rows[k]][1] for k in at]), strict=True):
                values[k] = value
        return values


def _with(only: str | None, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of all columns, or of one."""
    if only is None:
        return records
    return [{only: record[only]} if only in record else {} for record in records]


def parsed(line: str) -> Any:
    """A line of JSON; an integer of thousands of digits is a Decimal.

    Raises:
        ValueError, RecursionError: it is not JSON, or has NaN or the like.
    """
    try:
        return _DECODER.decode(line)
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        if "digits" not in str(error):
            raise
        return _LONG_DECODER.decode(line)


def as_json(record: dict[str, Any]) -> str:
    """A record as a line of JSON.

    Raises:
        TypeError, ValueError: bytes, or a number that is not finite.
    """
    return json.dumps(record, ensure_ascii=False, allow_nan=False, default=_plain)


def table_of(records: Sequence[Mapping[str, Any]], without: Sequence[str] = ()) -> pa.Table:
    """Records as a table of all their columns, checked to be readable as Parquet.

    Raises:
        PoolError: no column. ArrowException, OverflowError, UnicodeEncodeError: others.
    """
    names = dict.fromkeys(name for record in records for name in record if name not in without)
    if not names:
        raise PoolError("rows are empty")
    return pa.table({name: [record.get(name) for record in records] for name in names})


def taken(table: pa.Table, rows: Sequence[int]) -> pa.Table:
    """Rows of a table, whatever the size of its columns."""
    try:
        return table.take(pa.array(rows, pa.int64()))
    except pa.ArrowInvalid:  # a column of more than 2 GiB: row by row, nothing is joined
        return pa.concat_tables([table.slice(i, 1) for i in rows] or [table.slice(0, 0)])


def past_space(text: str, at: int) -> int:
    """Where JSON goes on."""
    while text[at : at + 1] in (" ", "\n", "\r", "\t") and at < len(text):
        at += 1
    return at


def _without(line: str, columns: Iterable[str]) -> str:
    """A line of JSON without some columns, all others to the letter."""
    if not any(column in line for column in columns):
        return line
    members = [*_members(line)]
    kept = [member for name, member in members if name not in columns]
    return line if len(kept) == len(members) else f"{{{', '.join(kept)}}}"


def _members(line: str) -> Iterator[tuple[str, str]]:
    """The names of a JSON object, and the text of each with its value."""
    at = past_space(line, line.index("{") + 1)
    while line[at] != "}":
        name, end = AS_WRITTEN.raw_decode(line, at)
        value = past_space(line, past_space(line, end) + 1)  # past the colon
        _, end = AS_WRITTEN.raw_decode(line, value)
        yield name, line[at:end]
        at = past_space(line, end)
        if line[at] == ",":
            at = past_space(line, at + 1)


def _plain(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray)):
        raise TypeError("bytes have no JSON form")
    return str(value)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits) <= _DIGITS else Decimal(digits)


AS_WRITTEN = json.JSONDecoder(parse_int=str, parse_float=str)  # numbers of any size
_DECODER = json.JSONDecoder(parse_constant=_no_constant)
_LONG_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_int=_integer)
