"""`select` as scikit-learn users know it: `FisherSelector`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fisher_jax.design.embeddings import PoolLike, as_embeddings
from fisher_jax.design.greedy import Method
from fisher_jax.design.selection import select
from fisher_jax.util.errors import UserError


class FisherSelector:
    """`select` with scikit-learn's names, for its `clone` too.

    Its arguments (n_samples, fraction, token_budget, costs, ridge, method, initial_subset) are
    those of `select`, and `fit` checks them. After `fit(emb)` it has `ranking_` (n,), `gains_` (n,)
    in nats and `log_det_`, as `Selection`.
    """

    _PARAMETERS = (
        *("n_samples", "fraction", "token_budget", "costs"),
        *("ridge", "method", "initial_subset"),
    )

    def __init__(
        self,
        n_samples: int | None = None,
        *,
        fraction: float | int | None = None,
        token_budget: float | int | None = None,
        costs: Sequence | np.ndarray | None = None,
        ridge: float | int = 1.0,
        method: Method = "lazy",
        initial_subset: Sequence[int] | np.ndarray = (),
    ) -> None:
        self.n_samples = n_samples
        self.fraction = fraction
        self.token_budget = token_budget
        self.costs = costs
        self.ridge = ridge
        self.method: Method = method
        self.initial_subset = initial_subset

    def fit(self, emb: PoolLike, y: None = None) -> "FisherSelector":
        """Rank the pool, of any form that `select` takes; `y` is for scikit-learn's sake."""
        emb = as_embeddings(emb)
        self.ranking_, self.gains_, self.log_det_ = select(
            emb,
            n_samples=self.n_samples,
            fraction=self.fraction,
            token_budget=self.token_budget,
            costs=self.costs,
            ridge=self.ridge,
            method=self.method,
            initial_subset=self.initial_subset,
        )
        self.n_examples_in_ = len(emb)
        return self

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments by name."""
        return {name: getattr(self, name) for name in self._PARAMETERS}

    def set_params(self, **params: Any) -> "FisherSelector":
        """Change some of them.

        Raises:
            ValueError: a name that is none of them.
        """
        for name, value in params.items():
            if name not in self._PARAMETERS:
                raise UserError(
                    f"FisherSelector has no argument {name!r}; it has {', '.join(self._PARAMETERS)}"
                )
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        given = [f"{k}={v!r}" for k, v in self.get_params().items() if v is not None and np.size(v)]
        return f"FisherSelector({', '.join(given)})"

    def fit_transform(self, emb: PoolLike, y: None = None) -> np.ndarray | list:
        """The chosen ones of the pool's own examples, in order of choice.

        Of a matrix (N, D) its chosen rows, else a list of the chosen examples' (M_i, D) arrays.
        """
        self.fit(emb, y)
        if isinstance(emb, np.ndarray):
            return emb[self.ranking_]
        return [emb[i] for i in self.ranking_]

    def transform(self, rows: Any) -> Any:
        """The chosen ones of the pool's rows, in order of choice.

        Args:
            rows: an array, a pandas frame or series, an Arrow table, or a sequence, of which the
                chosen are a list.

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
        return [rows[i] for i in self.ranking_]
