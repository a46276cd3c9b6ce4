"""Columns of a pool that say where a row comes from, or of which kind it is."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from fisher_jax.data.pool_file import PoolFile

MOST_VALUES = 20  # different ones of a column that is told
_MOST_COLUMNS, _MOST_CHARACTERS = 5, 60
_AT_ONCE = 4096  # rows that are Python objects at a time
NOTHING = "(none)"


def kinds(file: PoolFile, rows: Int[np.ndarray, "N"]) -> dict[str, Sequence[str]]:
    """By name, the values of some rows in columns of 2 to `MOST_VALUES` different short ones.

    At most five columns, in the order of the first row. Rows of several files have the column
    "file" too, unless there is one.
    """
    values: dict[str, list[str]] = {}
    found: dict[str, set[str]] = {}
    for begin in range(0, len(rows), _AT_ONCE):
        part = rows[begin : begin + _AT_ONCE].tolist()
        try:
            records = file.content.records(part)
        except (ValueError, OverflowError):  # a date that Python has no value for
            return {}
        if begin == 0:
            names = [name for name in records[0] if name not in file.replaced]
            values = {name: [] for name in dict.fromkeys([*names, "file"])}
            found = {name: set() for name in values}
        for i, record in zip(part, records, strict=True):
            name_of_file = file.where(i).rpartition(", ")[0]
            record = {"file": name_of_file[-_MOST_CHARACTERS:]} | record
            for name in [*values]:
                value = _as_word(record.get(name))
                found[name].add(value or "")
                values[name].append(value or "")
                if value is None or len(found[name]) > MOST_VALUES:
                    del values[name]
        if not values:
            return {}
    told = [name for name in values if len(found[name]) > 1]
    return {name: values[name] for name in told[:_MOST_COLUMNS]}


def _as_word(value: object) -> str | None:
    """A value in a few characters; None where it has too many, or parts."""
    if value is None:
        return NOTHING
    if not isinstance(value, (str, bool, int)) or len(text := str(value)) > _MOST_CHARACTERS:
        return None
    return text
