"""One call for every rule that selects: `Rule`, the decorator `rule`, and `SELECTORS` by name.

A rule is one function with `@rule(...)` above it; importing its file puts it into `SELECTORS`. The
decorator says all that is known of a rule before it runs, so nothing here imports JAX. What a rule
file needs of JAX is taken from `fisher_jax.design` when the rule is called.
"""

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn, TypeVar

import numpy as np

from fisher_jax import design
from fisher_jax.design import (
    Budget,
    Cap,
    Criterion,
    PoolLike,
    Ranking,
    Selection,
    TokenEmbeddings,
    TokenSource,
    as_source,
    as_targets,
)
from fisher_jax.util.checks import check_ridge, check_seed, did_you_mean
from fisher_jax.util.errors import UserError
from fisher_jax.util.progress import OnProgress


class Terms(NamedTuple):
    """What every rule is told beside the pool and the budget.

    Attributes:
        ridge: V = ridge I before the first choice.
        seed: of rules that draw.
        on_progress: called now and then with the budget spent, by rules that take long.
    """

    ridge: float | int = 1.0
    seed: int = 0
    on_progress: OnProgress | None = None


MEASURED = Path(__file__).with_name("measured.json")  # `make figures` writes it
Aim = Literal["information", "spread", "score", "task"]
Function = Callable[..., Ranking | Selection]  # of (emb, budget, terms, **needs_and_options)
AnyFunction = TypeVar("AnyFunction", bound=Function)


@dataclass(frozen=True)
class Rule:
    """A rule by name, with one call. `rule` makes them.

    A rule's gains are the information gains of its own sequence, so that curves compare. With
    `token_budget` rows are taken in the rule's order; one that no longer fits is skipped and
    smaller ones go on being taken (but by `fisher_random`, whose order is a draw).

    Attributes:
        name: its key in `SELECTORS`.
        function: takes the pool, a `Budget`, `Terms`, and by name what the rule needs and its own
            options; gives a ranking, or a whole `Selection` where it knows the gains already.
        favours: which rows it takes first, in a few words.
        aim: what a report judges its rows by: their "information", their "spread" over the pool,
            the "score" that it needs, or their likeness to a "task".
        needs: arguments that it must be given beside the embeddings.
        targeted: it takes `targets`, rows of a task to choose for.
        adds: it goes by what rows add to the information of those before them, and so may go on
            from initial rows (`fisher_jax.design.beyond`).
        by_label: it looks at the labels (completions), not at embeddings alone.
        nested: of n examples it takes the first n of those that it takes of more.
        weighs: it takes `quality` (N,) and `quality_weight`, as `select` does.
        divides: it takes a `mesh`, devices over which the pool is divided, as `select` does.
        grouped: it keeps to caps of groups.
        criterion: what a choice maximises where the rule goes by gains, else None; callers may pass
            another as `criterion`.
        streams: it takes a `TokenSource` too, a pool that need not fit into memory.
    """

    name: str
    function: Function
    favours: str
    aim: Aim = "information"
    needs: tuple[str, ...] = ()
    targeted: bool = False
    by_label: bool = False
    nested: bool = True
    criterion: Criterion | None = None
    streams: bool = False
    adds: bool = False
    weighs: bool = False
    divides: bool = False
    grouped: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.function.__doc__)

    @property
    def measured(self) -> str:
        """How it did in the studies, with intervals; empty where it was in none."""
        return _measured().get(self.name, "")

    @property
    def takes(self) -> tuple[str, ...]:
        """Arguments that it must or may be given beside the embeddings."""
        return (*self.needs, "targets") if self.targeted else self.needs

    @property
    def planted(self) -> bool:
        """It must be told the true last layer, which only a made-up problem has."""
        return "theta" in self.needs

    def __call__(
        self,
        emb: PoolLike | TokenSource,
        *,
        n_samples: int | None = None,
        fraction: float | int | None = None,
        token_budget: float | int | None = None,
        costs: Sequence | np.ndarray | None = None,
        groups: Sequence | np.ndarray | None = None,
        group_cap: Cap | None = None,
        ridge: float | int = 1.0,
        seed: int = 0,
        on_progress: OnProgress | None = None,
        **options: object,
    ) -> Selection:
        """Choose rows of `emb`; one budget, groups and `on_progress` as for `fisher_jax.select`.

        Only rules that choose greedily by information or variance call `on_progress`.

        Args:
            options: what the rule needs, and its own options.

        Raises:
            UserError: as `select`; an argument that this rule needs is missing; `targets` that are
                not embedded as the pool is.
            TypeError: an option that the rule doesn't have.
        """
        emb = as_source(emb)
        if not self.streams and not isinstance(emb, TokenEmbeddings):
            raise UserError(f"{self.name} takes a pool in memory: pass its `in_memory()`")
        budget = Budget.of(
            emb,
            n_samples=n_samples,
            fraction=fraction,
            token_budget=token_budget,
            costs=costs,
            groups=groups,
            group_cap=group_cap,
        )
        chosen = self._choose(emb, budget, Terms(ridge, seed, on_progress), options)
        return chosen if isinstance(chosen, Selection) else design.evaluate(emb, chosen, ridge)

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
        chosen = self._choose(emb, budget, Terms(ridge, seed), options)
        return chosen.ranking if isinstance(chosen, Selection) else chosen

    def _choose(
        self, emb: TokenSource, budget: Budget, terms: Terms, options: dict
    ) -> Ranking | Selection:
        check_ridge(terms.ridge)
        check_seed(terms.seed)
        if budget.groups is not None and not self.grouped:
            raise UserError(f"selector {self.name!r} keeps to no caps of groups: take another")
        missing = [name for name in self.needs if options.get(name) is None]
        if missing:
            raise UserError(f"selector {self.name!r} needs {missing[0]}= beside the embeddings")
        if options.get("targets") is not None:
            options = options | {"targets": as_targets(emb, options["targets"])}
        if self.criterion is not None:
            options = {"criterion": self.criterion} | options
        return self.function(emb, budget, terms, **options)


class UnknownSelectorError(UserError, KeyError):
    """A name that no rule has; the message says what it may stand for."""

    __str__ = ValueError.__str__  # KeyError's puts quotes around


class Rules(dict[str, Rule]):
    """Rules by name; an unknown name is told with the most similar one."""

    def __missing__(self, name: str) -> NoReturn:
        raise UnknownSelectorError(f"there is no selector {name!r}: {did_you_mean(name, self)}")


SELECTORS = Rules()


def rule(
    favours: str,
    *,
    name: str | None = None,
    aim: Aim = "information",
    needs: tuple[str, ...] = (),
    targeted: bool = False,
    by_label: bool = False,
    nested: bool = True,
    criterion: Criterion | None = None,
    streams: bool = False,
    adds: bool = False,
    weighs: bool = False,
    divides: bool = False,
    grouped: bool = True,
) -> Callable[[AnyFunction], AnyFunction]:
    """Put a function into `SELECTORS`, by its own name or `name`; it stays as it is.

    Two of them above one function make two rules, such as one for each criterion.

    Raises:
        ValueError: the name is taken.
    """

    def register(function: AnyFunction) -> AnyFunction:
        key = name or function.__name__
        if key in SELECTORS:
            raise ValueError(f"there are two rules of the name {key!r}: rename one")
        SELECTORS[key] = Rule(
            *(key, function, favours, aim, needs),
            *(targeted, by_label, nested, criterion, streams, adds, weighs, divides, grouped),
        )
        return function

    return register


@functools.cache
def _measured() -> dict[str, str]:
    return json.loads(MEASURED.read_text(encoding="utf-8"))
