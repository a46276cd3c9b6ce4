"""`select` as scikit-learn users know it: `FisherSelector`."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fisher_jax.design.budget import Criterion
from fisher_jax.design.embeddings import PoolLike, TokenSource, as_source
from fisher_jax.design.greedy import Method
from fisher_jax.design.groups import Cap
from fisher_jax.design.selection import select
from fisher_jax.util.errors import UserError


class FisherSelector:
    """`select` with scikit-learn's names, for its `clone` too.

    Its arguments (n_samples, fraction, token_budget, costs, criterion, ridge, method,
    initial_subset, group_cap, quality_weight) are those of `select`, and `fit` checks them. What
    the examples have, `groups` and `quality`, goes to `fit`, as scikit-learn's own does; through a
    pipeline as `fisherselector__groups=`. After `fit(emb)` it has `ranking_` (n,), `gains_` (n,) in
    nats and `log_det_`, as `Selection`.
    """

    def __init__(
        self,
        n_samples: int | None = None,
        *,
        fraction: float | int | None = None,
        token_budget: float | int | None = None,
        costs: Sequence | np.ndarray | None = None,
        criterion: Criterion | None = None,
        ridge: float | int = 1.0,
        method: Method = "lazy",
        initial_subset: Sequence[int] | np.ndarray = (),
        group_cap: Cap | None = None,
        quality_weight: float | int = 1.0,
    ) -> None:
        self.n_samples = n_samples
        self.fraction = fraction
        self.token_budget = token_budget
        self.costs = costs
        self.criterion: Criterion | None = criterion
        self.ridge = ridge
        self.method: Method = method
        self.initial_subset = initial_subset
        self.group_cap = group_cap
        self.quality_weight = quality_weight

    def fit(
        self,
        emb: PoolLike | TokenSource,
        y: None = None,
        *,
        groups: Sequence | np.ndarray | None = None,
        quality: Sequence | np.ndarray | None = None,
    ) -> "FisherSelector":
        """Rank the pool.

        Args:
            emb: of any form that `select` takes.
            y: for scikit-learn's sake.
            groups: (N,) a label an example; goes with `group_cap`.
            quality: (N,) of each example, at least 0; a unit is worth `quality_weight` nats.

        Raises:
            ValueError: as `select`; a `group_cap` without `groups`, or the other way round.
        """
        emb = as_source(emb)
        self.ranking_, self.gains_, self.log_det_ = select(
            emb, groups=groups, quality=quality, **self.get_params()
        )
        self.n_examples_in_ = len(emb)
        return self

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments by name."""
        return {name: getattr(self, name) for name in _parameters()}

    def set_params(self, **params: Any) -> "FisherSelector":
        """Change some of them.

        Raises:
            ValueError: a name that is none of them.
        """
        for name, value in params.items():
            if name not in _parameters():
                raise UserError(
                    f"FisherSelector has no argument {name!r}; it has {', '.join(_parameters())}"
                )
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        usual = {name: repr(parameter.default) for name, parameter in _parameters().items()}
        given = [f"{k}={v!r}" for k, v in self.get_params().items() if repr(v) != usual[k]]
        return f"FisherSelector({', '.join(given)})"

    def fit_transform(self, emb: PoolLike, y: None = None, **of_rows: Any) -> np.ndarray | list:
        """The chosen ones of the pool's own examples, in order of choice; `of_rows` as `fit`.

        Of a matrix (N, D) its chosen rows, else a list of the chosen examples' (M_i, D) arrays.
        """
        self.fit(emb, y, **of_rows)
        if isinstance(emb, np.ndarray):
            return emb[self.ranking_]
        return [emb[i] for i in self.ranking_]

    def transform(self, rows: Any) -> Any:
        """The chosen ones of the pool's rows, in order of choice.

        Args:
            rows: an array, a pandas frame or series, an Arrow table, a Dataset of the package
                datasets, or a sequence, of which the chosen are a list.

        Raises:
            ValueError: before `fit`, for columns by name instead of rows, or for another number of
                rows than the pool's.
        """
        if not hasattr(self, "ranking_"):
            raise UserError("this FisherSelector is not fitted: call fit(emb) first")
        if isinstance(rows, Mapping):
            raise UserError("rows must be a sequence of rows, got a mapping: pass a list of rows")
        if len(rows) != self.n_examples_in_:
            raise UserError(f"{len(rows)} rows, but the pool had {self.n_examples_in_} examples")
        if isinstance(rows, np.ndarray):
            return rows[self.ranking_]
        if hasattr(rows, "iloc"):  # pandas, whose [] takes labels
            return rows.iloc[self.ranking_]
        if type(rows).__module__.startswith("pyarrow"):  # where [] of a table gives a column
            return rows.take(self.ranking_)
        if type(rows).__module__.startswith("datasets"):
            return rows.select(self.ranking_)
        return [rows[i] for i in self.ranking_]


def _parameters() -> Mapping[str, inspect.Parameter]:
    """The arguments of `FisherSelector`."""
    return inspect.signature(FisherSelector).parameters
