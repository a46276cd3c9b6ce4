"""Checks of arguments that many functions take: numbers, a ridge, a seed, one budget of three."""

import difflib
import numbers
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from fisher_jax.util.errors import UserError

LEAST_RIDGE = 1e-14  # of the mean squared norm; below, float64 loses gains to rounding
MOST_SEED = 2**32 - 1  # what scikit-learn takes


def check_numbers(**values: Any) -> None:
    """Refuse the first that is neither a number nor None.

    Raises:
        UserError: it is a string, an array, NaN, a whole number beyond all floats, ...; the message
            names it.
    """
    _check_kinds(**values)
    for name, value in values.items():
        if isinstance(value, int) and abs(value) > sys.float_info.max:
            raise UserError(f"{name} is too large: give less than {sys.float_info.max:.1e}")


def _check_kinds(**values: Any) -> None:
    for name, value in values.items():
        is_number = isinstance(value, numbers.Real)
        if hasattr(value, "dtype"):  # NumPy's and JAX's
            is_number = np.ndim(value) == 0 and value.dtype.kind in "iuf"
        if value is not None and (not is_number or value != value):
            raise UserError(f"{name} must be a number, got {value!r}")


def check_ridge(ridge: float | int, name: str = "ridge") -> None:
    """Refuse a ridge that is no positive number.

    Raises:
        UserError: the message calls it `name`.
    """
    check_numbers(**{name: ridge})
    if not (np.isfinite(ridge) and ridge > 0):
        raise UserError(f"{name} must be a positive number, got {ridge}")


def check_seed(seed: int, name: str = "seed", most: int = MOST_SEED) -> None:
    """Refuse a seed that is no whole number from 0 to `most`.

    Raises:
        UserError: the message calls it `name`.
    """
    if not (isinstance(seed, int | np.integer) and 0 <= seed <= most):
        raise UserError(f"{name} must be a whole number from 0 to {most:,}, got {seed!r}")


def check_one_budget(**budgets: float | int | None) -> str:
    """The name of the only budget that is not None.

    Args:
        budgets: by name, of numbers of rows, a fraction, and tokens, in this order.

    Raises:
        UserError: none or several are given, or one is out of every pool's range.
    """
    _check_kinds(**budgets)  # of any size: none buys more than there is
    passed = {name: value for name, value in budgets.items() if value is not None}
    if len(passed) != 1:
        *others, last = budgets
        raise UserError(
            f"exactly one of {', '.join(others)}, {last} is needed, got "
            + (" and ".join(f"{name}={value}" for name, value in passed.items()) or "none")
        )
    ((name, value),) = passed.items()
    is_share = name == [*budgets][1]
    if not value > 0 or (is_share and value > 1):
        raise UserError(
            f"{name} must be above 0{' and at most 1' if is_share else ''}, got {value}"
        )
    return name


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """What an unknown name may stand for: the most similar known one, or all of them."""
    names = [*known]
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
