"""What columns of a pool say of its rows: worth, price and group of each."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from fisher_jax.data import PoolError
from fisher_jax.data.pool_file import PoolFile
from fisher_jax.design import worth_of
from fisher_jax.pipeline.request import Request


class RowValues(NamedTuple):
    """Of the rows that may be chosen; None where the request has no such column.

    Attributes:
        quality: (N,) at least 0.
        price: (N,) positive, in the unit of `token_budget`.
        group: (N,) labels.
    """

    quality: Float[np.ndarray, "N"] | None = None
    price: Float[np.ndarray, "N"] | None = None
    group: np.ndarray | None = None

    def take(self, rows: Int[np.ndarray, "n"]) -> "RowValues":
        """Those of some of the rows."""
        return RowValues(*(None if of is None else of[rows] for of in self))


NO_VALUES = RowValues()


def read_values(
    request: Request, file: PoolFile, at: Int[np.ndarray, "N"]
) -> tuple[PoolFile, Int[np.ndarray, "n"], RowValues]:
    """Of the rows `at` of a pool's file: the file, those rows that have values, and the values.

    With `skip_bad` a row with a value that can't be is left out, and listed with the file's others.

    Raises:
        PoolError: a row without the column, or with a value that can't be; or no row is left.
        UserError: qualities that are too large.
    """
    bad: dict[int, str] = {}

    def values(column: str | None, value_of: Callable[[Any], Any], dtype: type) -> Any:
        if column is None:
            return None
        read = []
        for i, value in zip(at.tolist(), file.column(column, at), strict=True):
            try:
                read.append(value_of(value))
            except (TypeError, ValueError) as error:
                what = f"{file.where(i)}: column {column!r} {error}"
                if not request.skip_bad:
                    raise PoolError(f"{what}: mend the row, or pass `skip_bad`") from None
                bad.setdefault(i, what)
                read.append(None)
        return np.asarray(read, dtype)

    told = RowValues(
        values(request.quality, _at_least_0, float),
        values(request.cost_column, _positive, float),
        values(request.group_by, _label, object),  # strings would be padded to the longest
    )
    if len(bad) == len(at):
        first = next(iter(bad.values()))
        raise PoolError(f"{file.path} has no row that can be used: the first, {first}: mend them")
    is_good = ~np.isin(at, [*bad])
    file = dataclasses.replace(file, bad=[*file.bad, *bad.values()])
    told = told.take(np.flatnonzero(is_good))
    if told.quality is not None:
        worth_of(len(told.quality), told.quality, request.quality_weight)  # or it is refused
    return file, at[is_good], told


def _number(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # of CSV a text
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"must be a number, got {value!r}")
    return number


def _at_least_0(value: Any) -> float:
    if (number := _number(value)) < 0:
        raise ValueError(f"must be at least 0, got {number} (add a constant to all rows)")
    return number


def _positive(value: Any) -> float:
    if (number := _number(value)) <= 0:
        raise ValueError(f"must be above 0, got {number}")
    return number


def _label(value: Any) -> str:
    if value is None:
        raise ValueError("must name a group")
    return str(value)
