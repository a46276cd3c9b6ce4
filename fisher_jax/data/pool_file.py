"""Pools in, selections out: JSONL, Parquet, plain text and ready embeddings."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from fisher_jax.data.rows import Chat, PoolError, Row, row_of
from fisher_jax.design import TokenEmbeddings
from fisher_jax.util.errors import UserError
from fisher_jax.util.excerpt import one_line

COLUMNS = RANK, GAIN, WEIGHT = "fisher_rank", "fisher_gain", "fisher_weight"
SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".txt": "text"}


@dataclass(frozen=True)
class PoolFile:
    """A pool as it stands in a file: `content` is what is written again, `rows` what is read.

    `content` is a list of raw lines (JSONL: to keep every column to the letter), a table
    (Parquet), the texts themselves, or a list of mappings (rows in Python). `sha256` is that of
    the bytes read, if they are a file's.
    """

    path: Path
    kind: str
    content: Any
    rows: Sequence[Row | Chat] | None
    sha256: str = ""

    def __len__(self) -> int:
        return len(self.content)

    def where(self, i: int) -> str:
        """Row i as a person would look for it."""
        is_line = self.kind in ("jsonl", "text")
        return f"{self.path}, " + (f"line {i + 1}" if is_line else f"row {i}")

    def preview(self, i: int) -> str:
        """Row i as a text to look at."""
        if self.rows is None:
            try:
                return str(self.records([i])[0])
            except (ValueError, OverflowError):  # a date that Python has no value for
                return self.where(i)
        row = self.rows[i]
        if isinstance(row, Chat):
            messages = [*row.prompt, *row.completion]
            return "\n".join(f"{message['role']}: {message['content']}" for message in messages)
        return row if isinstance(row, str) else f"{row.prompt} → {row.completion}"

    def first_without_prompt(self) -> int | None:
        """The first row that is not split into a prompt and a completion."""
        for i, row in enumerate(self.rows or ()):
            if isinstance(row, str) or (isinstance(row, Chat) and not row.completion):
                return i
        return None

    def records(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Rows as dictionaries of all their columns."""
        if isinstance(self.content, pa.Table):
            return self.content.take(pa.array(indices, pa.int64())).to_pylist()
        if self.kind == "text":
            return [{"text": self.content[i]} for i in indices]
        if self.kind == "rows":
            return [dict(self.content[i]) for i in indices]
        return [json.loads(self.content[i]) for i in indices]


def read_pool(
    path: Path,
    text_column: str | None = None,
    *,
    needs_text: bool = True,
    is_written: bool = False,
) -> PoolFile:
    """A pool of text rows, of `prompt` and `completion` rows, or of chats.

    The text is that of `text_column`; without one, of the column `text`, and where there is no
    such column, of `messages`, or of `prompt` and `completion`. The first row decides for all. A
    list of messages (`role` and `content`) in the place of a string is a chat.

    Args:
        path: .jsonl or .ndjson (an object a line), .parquet, or .txt (a row a line).
        text_column: name of the column with the text.
        needs_text: False for pools whose embeddings are at hand; their columns are not looked at.
        is_written: the rows are to be written again, and may not have the columns that we add.

    Raises:
        PoolError: the file or a row of it can't be used.
    """
    if path.is_dir():
        raise PoolError(f"{path} is a folder: name one file, and join Parquet shards into one")
    if not path.is_file():
        raise PoolError(f"there is no file {path}: name a .jsonl, .parquet or .txt pool")
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise PoolError(
            f"{path}: its name must end in {', '.join(SUFFIXES)} to tell its format: convert it, "
            "for example by pandas' read_csv or read_json and to_parquet"
        )
    if kind == "parquet":
        return _read_parquet(path, text_column, needs_text, is_written)
    lines = _read_lines(path)
    if kind == "text":
        if text_column is not None:
            raise PoolError(f"{path} is plain text and has no columns: leave --text-column out")
        return PoolFile(path, kind, lines, lines)
    rows: list[Row | Chat] = []
    columns: tuple[str, ...] = ()
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        try:
            record = json.loads(line, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            is_syntax = isinstance(error, json.JSONDecodeError)
            reason = f"{error.msg}, column {error.colno}" if is_syntax else error
            raise PoolError(f"{where} is not JSON ({reason}): mend or remove the line") from None
        if not isinstance(record, dict):
            raise PoolError(f"{where} is {type(record).__name__}, not a JSON object with columns")
        if is_written:
            _check_free(record, where)
        if needs_text:
            columns = columns or _text_columns(record, text_column, where)
            missing = [column for column in columns if column not in record]
            if missing:
                raise PoolError(
                    f"{where} has no column {missing[0]!r}, it has "
                    f"{', '.join(map(repr, record)) or 'none'}: see --text-column"
                )
            rows.append(row_of([record[column] for column in columns], columns, where))
    return PoolFile(path, kind, lines, rows if needs_text else None)


def pool_of(
    rows: Iterable[str | Mapping[str, Any]],
    name: str = "rows",
    text_column: str | None = None,
    *,
    needs_text: bool = True,
    is_written: bool = False,
) -> PoolFile:
    """A pool of rows in Python: strings, which are texts, or mappings as in the lines of JSONL.

    The options are those of `read_pool`; `name` is the pool's in messages.

    Raises:
        PoolError: no rows, or one that can't be used.
    """
    records = [{"text": row} if isinstance(row, str) else row for row in rows]
    if not records:
        raise PoolError(f"{name} is empty: a pool needs at least one row")
    examples: list[Row | Chat] = []
    columns: tuple[str, ...] = ()
    for number, record in enumerate(records):
        where = f"{name}, row {number}"
        if not isinstance(record, Mapping):
            raise PoolError(f"{where} is {type(record).__name__}, neither a string nor a mapping")
        if is_written:
            _check_free(record, where)
        if needs_text:
            columns = columns or _text_columns(record, text_column, where)
            missing = [column for column in columns if column not in record]
            if missing:
                raise PoolError(f"{where} has no column {missing[0]!r}, it has {[*record]}")
            examples.append(row_of([record[column] for column in columns], columns, where))
    return PoolFile(Path(name), "rows", records, examples if needs_text else None)


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
        out: the name that they will have, a .jsonl or .parquet file.
        pool: the pool's file; None for embeddings without one, whose rows are `{index}`.
        ranking: (n,) rows of the pool.
        gains: (n,) nats.
        weights: (n,) of each row in the loss, a column of their own if given.

    Raises:
        PoolError: a column that the output's format can't hold.
    """
    order = [int(i) for i in ranking]
    added = {RANK: [*range(len(order))], GAIN: [float(g) for g in gains]}
    if weights is not None:
        added[WEIGHT] = [float(w) for w in weights]
    if out.suffix == ".parquet":
        table = _as_table(pool, order, out)
        for name, values in added.items():
            table = table.append_column(
                name, pa.array(values, pa.int64() if name == RANK else pa.float64())
            )
        pq.write_table(table, path)
        return
    lines = _as_json_lines(pool, order, out)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for k, line in enumerate(lines):
            comma = ", " if line[1:-1].strip() else ""
            columns = json.dumps({name: values[k] for name, values in added.items()})
            file.write(f"{line[:-1]}{comma}{columns[1:]}\n")


def check_columns_fit(out: Path, pool: PoolFile) -> None:
    """Before any work is done: can the output's format hold the columns of all rows?

    Raises:
        PoolError: a column that it can't hold.
    """
    if out.suffix == ".parquet" and pool.kind in ("jsonl", "rows"):
        _as_table(pool, [0], out)
    elif out.suffix == ".jsonl" and pool.kind in ("parquet", "rows"):
        for begin in range(0, len(pool), 4096):  # never all rows as Python objects
            _as_json_lines(pool, range(begin, min(begin + 4096, len(pool))), out)


def _read_lines(path: Path) -> list[str]:
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
    if not content.strip():
        raise PoolError(f"{path} is empty: a pool needs at least one row")
    lines = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        try:
            text = line.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise PoolError(
                f"{path}, line {number} is not UTF-8 text ({error.reason}): "
                "is this a binary file? Convert it to UTF-8"
            ) from None
        if "\0" in text:
            raise PoolError(f"{path}, line {number} holds a zero byte: is this a binary file?")
        lines.append(text)
    return lines


def _check_free(columns: Iterable[str], where: str) -> None:
    """Refuse columns that would be written twice."""
    for column in COLUMNS:
        if column in columns:
            raise PoolError(f"{where} already has a column {column}: rename it first")


def _read_parquet(
    path: Path, text_column: str | None, needs_text: bool, is_written: bool
) -> PoolFile:
    try:
        names = Counter(pq.read_schema(path).names)
        if twice := [name for name, count in names.items() if count > 1]:
            raise PoolError(f"{path} has several columns {twice[0]!r}: rename or drop one")
        table = _without_views(pq.read_table(path))
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        reason = one_line(error)
        raise PoolError(f"{path} is not readable as Parquet ({reason}): write it anew") from None
    if table.num_rows == 0:
        raise PoolError(f"{path} is empty: a pool needs at least one row")
    if is_written:
        _check_free(table.column_names, str(path))
    if not needs_text:
        return PoolFile(path, "parquet", table, None)
    columns = _text_columns(dict.fromkeys(table.column_names), text_column, str(path))
    values = [table.column(column).to_pylist() for column in columns]
    rows = [
        row_of(list(row), columns, f"{path}, row {i}")
        for i, row in enumerate(zip(*values, strict=True))
    ]
    return PoolFile(path, "parquet", table, rows)


def _without_views(table: pa.Table) -> pa.Table:
    """String and binary views as plain columns: Arrow can't take rows of views."""
    plain = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    fields = [field.with_type(plain.get(field.type, field.type)) for field in table.schema]
    return table.cast(pa.schema(fields, table.schema.metadata))


def _text_columns(
    record: Mapping[str, Any], text_column: str | None, where: str
) -> tuple[str, ...]:
    if text_column is not None:
        columns = (text_column,)
    else:
        known = (("text",), ("messages",), ("prompt", "completion"))
        columns = next((some for some in known if {*some} <= set(record)), ("text",))
    if columns[0] not in record:
        raise PoolError(
            f"{where} has no column {columns[0]!r}, it has "
            f"{', '.join(map(repr, record)) or 'none'}: name the text's with "
            "--text-column, or rename instruction and answer to prompt and completion"
        )
    return columns


def _no_constant(name: str) -> None:
    raise UserError(f"{name} is no JSON number")


def _as_table(pool: PoolFile | None, order: Sequence[int], out: Path) -> pa.Table:
    if pool is None:
        return pa.table({"index": order})
    if isinstance(pool.content, pa.Table):
        return pool.content.take(pa.array(order, pa.int64()))
    records = pool.records(range(len(pool)))  # all, so that types don't depend on the choice
    columns = dict.fromkeys(name for record in records for name in record)
    try:
        if not columns:
            raise PoolError(f"{out} can't hold {pool.path}'s empty rows: write a .jsonl instead")
        table = pa.table({name: [record.get(name) for record in records] for name in columns})
        pq.write_table(table.slice(0, 0), pa.BufferOutputStream())  # not every type has a form
        return table.take(pa.array(order, pa.int64()))
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        raise PoolError(
            f"{out} can't hold {pool.path}'s columns ({error}): write a .jsonl instead"
        ) from None


def _as_json_lines(pool: PoolFile | None, order: Sequence[int], out: Path) -> list[str]:
    if pool is None:
        return [json.dumps({"index": i}) for i in order]
    if pool.kind == "jsonl":
        return [pool.content[i].strip() for i in order]
    try:
        return [
            json.dumps(record, ensure_ascii=False, allow_nan=False, default=_as_json)
            for record in pool.records(order)
        ]
    except (TypeError, ValueError, OverflowError, pa.ArrowException) as error:
        # bytes, NaN, the year 10000, a type that Arrow can't take from
        raise PoolError(
            f"{out} can't hold {pool.path}'s columns ({error}): write a .parquet instead"
        ) from None


def _as_json(value: Any) -> str:
    if isinstance(value, (bytes, bytearray)):
        raise TypeError("bytes have no JSON form")
    return str(value)
