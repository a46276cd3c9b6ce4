"""Rows of a finished run in one Parquet file: a column an option of its grid or a measured value.

Floats have six digits on disk as in results.jsonl, which float32 holds.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from experiments.run.kept import REMEDY, Row, read_rows
from experiments.run.results import RESULTS
from fisher_jax.util.errors import UserError
from fisher_jax.util.excerpt import one_line
from fisher_jax.util.files import replacing

PACKED = "results.parquet"
SETTING = b"setting"  # in the file's metadata: which columns are options


def read_folder(folder: Path) -> list[Row]:
    """Rows of a run's results.jsonl or, where there is none, results.parquet; else none."""
    if (folder / PACKED).exists() and not (folder / RESULTS).exists():
        return unpack(folder / PACKED)
    return read_rows(folder / RESULTS)


def pack(rows: Sequence[Row], path: Path, **constant: str) -> None:
    """Write rows, with more columns that are the same in each.

    Raises:
        ValueError: rows of several grids.
    """
    options = [*rows[0]["setting"]]
    if any([*row["setting"]] != options for row in rows):
        raise ValueError("rows have settings of several grids")
    flat = [constant | r["setting"] | {k: v for k, v in r.items() if k != "setting"} for r in rows]
    names = dict.fromkeys(name for row in flat for name in row)
    table = pa.table({name: [row.get(name) for row in flat] for name in names})
    types = [c.type if c.name in options else _single(c.type) for c in table.schema]
    about = {SETTING: json.dumps([[*constant], options]).encode()}
    table = table.cast(pa.schema(list(zip(table.column_names, types, strict=True)), about))
    plain = [c.name for c in table.schema if c.type == pa.float32()]
    lists = [c.name for c in table.schema if c.type == pa.list_(pa.float32())]
    split = [*plain, *(f"{name}.list.element" for name in lists)]
    with replacing(path) as temporary:
        parquet.write_table(
            table,
            temporary,
            compression="zstd",
            compression_level=19,
            use_dictionary=[c.name for c in table.schema if c.name not in split],  # pyright: ignore[reportArgumentType]
            use_byte_stream_split=split,  # pyright: ignore[reportArgumentType]
        )


def unpack(path: Path) -> list[Row]:
    """Rows as the experiment wrote them: what a row lacks is null in the table.

    Raises:
        UserError: a file that is damaged, or not of `pack`.
    """
    try:
        table = parquet.read_table(path)
        table.validate(full=True)
        constant, options = json.loads((table.schema.metadata or {})[SETTING])
        table = table.drop_columns(constant)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise UserError(f"{path} is damaged or no run's ({one_line(error)}): {REMEDY}") from None
    for k, column in enumerate(table.schema):
        table = table.set_column(k, column.name, _exact(table[k].combine_chunks()))
    rows = []
    for flat in table.to_pylist():
        own = {k: _there(v) for k, v in flat.items() if k not in options and v is not None}
        rows.append({"setting": {k: flat[k] for k in options}} | own)
    return rows


def _single(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.list_(_single(kind.value_type))
    return pa.float32() if kind == pa.float64() else kind


def _exact(column: pa.Array) -> pa.Array:
    """The decimals of six digits that float32 stands for, as doubles."""
    if pa.types.is_list(column.type):
        assert isinstance(column, pa.ListArray)
        values = _exact(column.values)
        return pa.ListArray.from_arrays(column.offsets, values, mask=column.is_null())
    if column.type != pa.float32():
        return column
    x = column.to_numpy(zero_copy_only=False).astype(np.float64)
    with np.errstate(divide="ignore"):
        digits = 5 - np.floor(np.log10(np.abs(x)))
    shift = 10.0 ** np.abs(np.where(np.isfinite(digits), digits, 0))
    decimals = np.where(digits > 0, np.rint(x * shift) / shift, np.rint(x / shift) * shift)
    far = np.flatnonzero(shift > 1e22)  # a power of ten that is no double
    decimals[far] = [float(f"{value:.6g}") for value in x[far]]
    return pa.array(decimals, mask=np.asarray(column.is_null()))


def _there(value: Any) -> Any:
    """Of a dictionary what a row has."""
    if isinstance(value, list):
        return [_there(v) for v in value]
    return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value
