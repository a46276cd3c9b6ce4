"""Kinds of rows, of each of which a budget buys only so much."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Int

from fisher_jax.util.checks import check_numbers
from fisher_jax.util.errors import UserError

Quota = Literal["equal", "proportional"]
Cap = float | int | str | Mapping[Any, float | int]  # a string is a Quota


class Groups(NamedTuple):
    """Which group each row is in, and what each group may cost.

    Rows within caps are the independent sets of a partition matroid, with a budget of examples
    still of a matroid: greedy then has at least 1/2 of the best f (Fisher, Nemhauser & Wolsey
    1978).

    Attributes:
        of: (N,) numbers of groups, in the order of their first rows.
        caps: (G,) in the budget's unit, examples or cost.
    """

    of: Int[np.ndarray, "N"]
    caps: Float[np.ndarray, "G"]

    @classmethod
    def split(
        cls,
        labels: Sequence[Any] | np.ndarray,
        cap: Cap,
        costs: Float[np.ndarray, "N"],
        total: float | int,
    ) -> "Groups":
        """By a label a row, such as its source.

        Args:
            labels: (N,) equal ones are a group.
            cap: of every group; or by label, where others have none; or quotas, caps that share
                the budget out: "equal" ones (what a small group can't use goes to the others), or
                "proportional" to what each group has.
            costs: (N,) of the rows.
            total: the budget.

        Raises:
            UserError: another number of labels, a cap that is none or of no group, no row that
                caps and budget pay for.
        """
        labels = [*labels]
        if len(labels) != len(costs):
            raise UserError(f"groups must be a label an example, {len(costs)}, got {len(labels)}")
        number: dict[Any, int] = {}
        try:
            of = np.asarray([number.setdefault(label, len(number)) for label in labels], np.int64)
        except TypeError:  # a label that can't be looked up, such as a list
            raise UserError("groups must be strings or numbers, not lists") from None
        sizes = np.bincount(of, np.where(np.isfinite(costs), costs, 0))
        caps = _caps(number, cap, sizes, total)
        if not np.any(costs <= np.minimum(total, caps[of])):
            raise UserError(
                f"`group_cap={cap}` buys nothing: the cheapest row costs {costs.min():g}"
            )
        return cls(of, caps)

    def room(self, costs: Float[np.ndarray, "N"]) -> float:
        """What rows that cost one each can be bought of."""
        return float(np.minimum(np.bincount(self.of, costs <= 1), np.floor(self.caps)).sum())


def quotas(
    sizes: Float[np.ndarray, "G"], total: float | int, quota: str, *, whole: bool
) -> Float[np.ndarray, "G"]:
    """Caps (G,) that add up to the budget, none above its group's size.

    `min(level, size)` with the level that spends the budget, or `total size / sum of sizes`. Whole
    ones are rounded down; what is left goes to the largest remainders, the first of equals.
    """
    total = min(float(total), float(sizes.sum()))
    if quota == "proportional":
        exact = total * sizes / sizes.sum()
    else:
        level, left, n_left = 0.0, total, len(sizes)
        for size in np.sort(sizes):
            if size * n_left > left:
                level = left / n_left
                break
            level, left, n_left = size, left - size, n_left - 1
        exact = np.minimum(sizes, level)
    if not whole:
        return exact
    caps = np.floor(exact + 1e-9)
    order = np.argsort(caps - exact, kind="stable")
    caps[order[: round(total - caps.sum())]] += 1
    return caps


def _caps(
    number: dict[Any, int], cap: Cap, sizes: Float[np.ndarray, "G"], total: float | int
) -> Float[np.ndarray, "G"]:
    if isinstance(cap, str):
        if cap not in get_args(Quota):
            raise UserError(f"`group_cap` must be a number, 'equal' or 'proportional', got {cap!r}")
        is_whole = bool(np.all(sizes == np.floor(sizes)))
        return quotas(sizes, total, cap, whole=is_whole)
    caps = np.full(len(sizes), np.inf)
    named = cap if isinstance(cap, Mapping) else dict.fromkeys(number, cap)
    for label, most in named.items():
        if label not in number:
            known = ", ".join(map(str, [*number][:10]))
            raise UserError(f"`group_cap` names {label!r}, but the groups are {known}")
        check_numbers(**{"`group_cap`": most})
        if most is None or most < 0:
            whose = f" for {label!r}" if named is cap else ""
            raise UserError(f"`group_cap` must be at least 0, got {most}{whose}")
        caps[number[label]] = most
    return caps
