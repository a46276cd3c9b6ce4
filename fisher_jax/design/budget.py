"""How much may be selected: `Budget`."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from fisher_jax.design.embeddings import TokenSource
from fisher_jax.design.groups import Cap, Groups
from fisher_jax.design.ranking import Ranking
from fisher_jax.util.checks import check_one_budget
from fisher_jax.util.errors import UserError

Criterion = Literal["gain", "gain_per_cost"]


class Budget(NamedTuple):
    """What may be spent, and what each example costs.

    Attributes:
        costs: (N,) positive; ones where examples are counted.
        total: the sum of costs that no selection exceeds.
        in_examples: costs are ones because examples are counted, not tokens.
        groups: of which only so much is bought each; None without.
    """

    costs: Float[np.ndarray, "N"]
    total: float | int
    in_examples: bool = False
    groups: Groups | None = None

    @classmethod
    def of(cls, emb: TokenSource, **terms: Any) -> "Budget":
        """`over` the tokens of a pool."""
        return cls.over(emb.lengths, **terms)

    @classmethod
    def over(
        cls,
        lengths: Int[np.ndarray, "N"],
        *,
        n_samples: int | None = None,
        fraction: float | int | None = None,
        token_budget: float | int | None = None,
        costs: Sequence | np.ndarray | None = None,
        groups: Sequence | np.ndarray | None = None,
        group_cap: Cap | None = None,
        owned: Int[np.ndarray, "R"] | None = None,
    ) -> "Budget":
        """From exactly one of the three budgets, as `fisher_jax.select` has them.

        A `token_budget` may be infinite, for the whole pool. Rows that are `owned` already can't
        be bought: they cost more than any budget, and shares of groups are of the others.

        Raises:
            ValueError: no or several budgets, one that is out of range or buys nothing, costs
                without `token_budget` or wrong ones; groups as `Groups.split`.
        """
        check_one_budget(n_samples=n_samples, fraction=fraction, token_budget=token_budget)
        if costs is not None and token_budget is None:
            raise UserError("costs goes with token_budget; pass token_budget or leave costs out")
        if (groups is None) != (group_cap is None):
            raise UserError("groups and group_cap go together: pass both, or none")
        if token_budget is None:
            n = len(lengths)
            budget = cls(np.ones(n), budget_in_examples(n, n_samples, fraction), True)
        else:
            budget = cls._of_cost(lengths, token_budget, costs)
        if owned is not None and len(owned):
            budget = budget._without(owned)
        if groups is None or group_cap is None:
            return budget
        split = Groups.split(groups, group_cap, budget.costs, budget.total)
        room = split.room(budget.costs)
        if budget.in_examples and budget.total > room:
            raise UserError(
                f"the budget is for {budget.total:g} examples, but `group_cap` allows {room:g}: "
                "ask for fewer, or raise caps"
            )
        return budget._replace(groups=split)

    @classmethod
    def _of_cost(
        cls, lengths: np.ndarray, total: float | int, costs: Sequence | np.ndarray | None
    ) -> "Budget":
        budget = cls(_checked_costs(lengths, costs), total)
        if not total >= budget.costs.min():
            raise UserError(
                f"token_budget={total} buys nothing: "
                f"the cheapest example costs {budget.costs.min():g}"
            )
        everything = budget.costs.sum()
        if total < everything:
            return budget
        return budget._replace(total=everything * (1 + 1e-9))  # whatever order it is added in

    def _without(self, rows: Int[np.ndarray, "R"]) -> "Budget":
        costs = self.costs.copy()
        costs[rows] = np.inf
        n_left = int(np.isfinite(costs).sum())
        if self.total < costs.min() or (self.in_examples and self.total > n_left):
            raise UserError(
                f"the budget is for {self.total:g}, but {n_left} of {len(costs)} examples are left"
            )
        return self._replace(costs=costs)

    def within(self, rows: Int[np.ndarray, "n"], more: int = 0) -> "Budget":
        """The same for a pool of some of the rows, and of more that can't be bought."""
        groups = self.groups and self.groups._replace(of=np.pad(self.groups.of[rows], (0, more)))
        costs = np.pad(self.costs[rows], (0, more), constant_values=np.inf)
        return self._replace(costs=costs, groups=groups)

    @property
    def is_whole(self) -> bool:
        """Costs are whole numbers that int32 can add, as a device without float64 does."""
        return self.total < 2**31 - 1 and bool(np.all(self.costs == np.floor(self.costs)))

    @property
    def units(self) -> tuple[Num[np.ndarray, "N"], float | int]:
        """Costs and total as a device adds them, exactly: int32 where they are whole."""
        if self.is_whole:
            return np.minimum(self.costs, 2**31 - 1).astype(np.int32), math.floor(self.total)
        return self.costs, self.total

    @property
    def rooms(self) -> tuple[Int[np.ndarray, "N"], Num[np.ndarray, "G"]]:
        """Each row's group, and what it may cost in the type of `units`; one group without any."""
        of, caps = self.groups or (np.zeros(len(self.costs), np.int64), np.array([self.total]))
        caps = np.minimum(caps, self.total)
        if self.is_whole:
            caps = np.floor(caps).astype(np.int32)
        return of.astype(np.int32), caps

    def divisors(
        self, emb: TokenSource, criterion: Criterion | None, power: float | int = 1
    ) -> Float[np.ndarray, "N"]:
        """What each row's gain is divided by: 1, or what it costs to a power.

        A row costs what is paid for it, or its tokens M_i where examples are counted.

        Args:
            criterion: "gain" or "gain_per_cost"; default the former for a budget of examples, the
                latter for one of tokens.
            power: of the cost. Gains grow more slowly than lengths, so 1 prefers short rows.

        Raises:
            UserError: another criterion, or a power that is not finite.
        """
        criterion = criterion or ("gain" if self.in_examples else "gain_per_cost")
        if criterion not in get_args(Criterion):
            raise UserError(f"criterion must be 'gain' or 'gain_per_cost', got {criterion!r}")
        if not np.isfinite(power):
            raise UserError(f"power must be a finite number, got {power}")
        if criterion == "gain":
            return np.ones(len(emb))
        costs = emb.lengths.astype(np.float64) if self.in_examples else self.costs
        return costs**power

    @property
    def most_examples(self) -> int:
        """How many of the cheapest rows it pays for: an upper limit of any selection."""
        return int(np.searchsorted(np.cumsum(np.sort(self.costs)), self.total, side="right"))


class Purse:
    """A budget while it is spent.

    Attributes:
        is_open: (N,) which rows are left and still fit.
    """

    def __init__(self, budget: Budget) -> None:
        self._costs, self._left, self._bought = budget.costs, budget.total, []
        self._group, caps = budget.rooms
        self._room = caps.astype(np.float64)
        self.is_open: Bool[np.ndarray, "N"] = self._costs <= self._room[self._group]

    def buy(self, i: int) -> None:
        """Take an open row."""
        self._bought.append(i)
        self._left -= self._costs[i]
        self._room[self._group[i]] -= self._costs[i]
        self.is_open &= self._costs <= np.minimum(self._left, self._room[self._group])
        self.is_open[i] = False

    @property
    def ranking(self) -> Ranking:
        """What was bought, in order."""
        return np.asarray(self._bought, np.int64)


def take(budget: Budget, order: np.ndarray) -> Ranking:
    """The rows of an order that still fit when their turn comes."""
    if budget.groups is None and np.ptp(budget.costs) == 0:
        return order[: int(budget.total // budget.costs[0])]
    remaining, cheapest, taken = budget.total, budget.costs.min(), []
    group, room = budget.rooms
    room = room.astype(np.float64)
    for i in order:
        if budget.costs[i] <= min(remaining, room[group[i]]):
            taken.append(i)
            remaining -= budget.costs[i]
            room[group[i]] -= budget.costs[i]
        elif remaining < cheapest:
            break
    return np.asarray(taken, np.int64)


def budget_in_examples(n: int, n_samples: int | None, fraction: float | int | None) -> int:
    """K of a pool of n examples: `n_samples`, or floor(fraction n + 0.5) and at least 1.

    Raises:
        ValueError: neither or both, or a number that the pool of n can't give.
    """
    check_one_budget(n_samples=n_samples, fraction=fraction)
    if fraction is not None:
        return max(1, math.floor(fraction * n + 0.5))
    assert n_samples is not None  # exactly one of the two is given
    if n_samples > n or n_samples != int(n_samples):
        raise UserError(
            f"n_samples must be a whole number from 1 to {n}, the pool's size, got {n_samples}"
        )
    return int(n_samples)


def _checked_costs(lengths: np.ndarray, costs: Sequence | np.ndarray | None) -> np.ndarray:
    costs = np.asarray(lengths if costs is None else costs, np.float64)
    if costs.shape != lengths.shape:
        raise UserError(f"costs must be one number an example, {len(lengths)}, got {costs.shape}")
    bad = np.flatnonzero(~(np.isfinite(costs) & (costs > 0)))
    if len(bad):
        raise UserError(f"costs must be positive, example {bad[0]} has {costs[bad[0]]}")
    return costs
