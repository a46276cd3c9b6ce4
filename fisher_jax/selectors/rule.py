"""One call signature for every rule that selects: `Selector`.

A rule's gains are the information gains of its own sequence, so that curves compare. With
`token_budget` rows are taken in the rule's order; one that no longer fits is skipped and smaller
ones go on being taken (but by `fisher_random`, whose order is a draw).
"""

import inspect
from collections.abc import Callable, Sequence

import numpy as np

from fisher_jax.design import (
    Budget,
    Ranking,
    Selection,
    TokenEmbeddings,
    check_ridge,
    check_targets,
    evaluate,
)
from fisher_jax.util.errors import UserError
from fisher_jax.util.progress import OnProgress


class Selector:
    """A rule with one call signature.

    A rule gives a ranking, or a whole `Selection` where it knows the gains already.

    Attributes:
        name: its key in `registry.SELECTORS` or `scored.MODEL_SELECTORS`.
        options: the rule's own named arguments.
        needs: those without a default, what the rule needs beside embeddings.
    """

    def __init__(self, name: str, rule: Callable[..., Ranking | Selection]) -> None:
        self.name = name
        self._rule = rule
        parameters = list(inspect.signature(rule).parameters.values())[2:]
        own = [p for p in parameters if p.name not in ("seed", "ridge", "on_progress")]
        self._takes = [p.name for p in parameters]
        self.options = [p.name for p in own]
        self.needs = [p.name for p in own if p.default is p.empty]
        self.__name__, self.__doc__ = rule.__name__, rule.__doc__

    def __call__(
        self,
        emb: TokenEmbeddings,
        *,
        n_samples: int | None = None,
        fraction: float | int | None = None,
        token_budget: float | int | None = None,
        costs: Sequence | np.ndarray | None = None,
        ridge: float | int = 1.0,
        seed: int = 0,
        on_progress: OnProgress | None = None,
        **options: object,
    ) -> Selection:
        """Choose rows of `emb`; exactly one budget and `on_progress` as for `fisher_jax.select`.

        Only rules that choose greedily by information or variance call `on_progress`.

        Raises:
            ValueError: as `select`; an argument that this selector needs is missing, or one that
                it doesn't know; `targets` that are not embedded as the pool is.
        """
        budget = Budget.of(
            emb, n_samples=n_samples, fraction=fraction, token_budget=token_budget, costs=costs
        )
        common = {"ridge": ridge, "seed": seed, "on_progress": on_progress}
        chosen = self._choose(emb, budget, common, options)
        return chosen if isinstance(chosen, Selection) else evaluate(emb, chosen, ridge)

    def rank(
        self,
        emb: TokenEmbeddings,
        budget: Budget,
        *,
        ridge: float | int = 1.0,
        seed: int = 0,
        **options: object,
    ) -> Ranking:
        """The ranking alone, without the information gains."""
        chosen = self._choose(emb, budget, {"ridge": ridge, "seed": seed}, options)
        return chosen.ranking if isinstance(chosen, Selection) else chosen

    def _choose(
        self, emb: TokenEmbeddings, budget: Budget, common: dict, options: dict
    ) -> Ranking | Selection:
        check_ridge(common["ridge"])
        seed = common["seed"]
        if not (isinstance(seed, int | np.integer) and 0 <= seed < 2**32):
            raise UserError(f"seed must be a whole number from 0 to 2^32 - 1, got {seed!r}")
        missing = [n for n in self.needs if options.get(n) is None]
        if missing:
            raise UserError(f"selector {self.name!r} needs {missing[0]}= beside the embeddings")
        unknown = [n for n in options if n not in self.options]
        if unknown:
            raise UserError(
                f"selector {self.name!r} has no argument {unknown[0]!r}; "
                f"it has {', '.join(self.options) or 'none'}"
            )
        if options.get("targets") is not None:
            check_targets(emb, options["targets"])
        given = common | options
        return self._rule(emb, budget, **{k: v for k, v in given.items() if k in self._takes})
