"""A selection, with all that a report shows of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from fisher_jax.design import Selection, TokenEmbeddings, TokenSource
from fisher_jax.selectors import Aim, Rule


class Subject(NamedTuple):
    """A selection, what it was chosen from and by which rule.

    Attributes:
        emb: the pool, which need not be in memory.
        selection: what was chosen of it.
        rule: that chose.
        ridge: of the selection.
        seed: of uniform draws, samples and clusters.
        costs: (N,) tokens that each example is trained on.
        row_of: (N,) row of the pool's file of each example.
        preview: text of an example.
        others: by rule, what else was chosen for the same budget, to compare with.
        scores: what the rules were told beside the embeddings, by name.
        task_preview: text of an example of the task in `scores["targets"]`.
        word: the token that embedding j of example i predicts, as text.
        columns: by name, a value of each example, of few different ones.
        prices: (N,) what each example costs of the budget, where that is not its tokens.
    """

    emb: TokenSource
    selection: Selection
    rule: Rule
    ridge: float | int
    seed: int
    costs: Int[np.ndarray, "N"]
    row_of: Int[np.ndarray, "N"]
    preview: Callable[[int], str]
    others: Mapping[str, Selection] = {}
    scores: Mapping[str, Any] = {}
    task_preview: Callable[[int], str] | None = None
    word: Callable[[int, int], str] | None = None
    columns: Mapping[str, Sequence[str]] = {}
    prices: Float[np.ndarray, "N"] | None = None

    @property
    def short(self) -> TokenSource:
        """The pool with fewer tokens where rows are long, and the same information."""
        emb = self.emb
        return emb.at_most_dim_rows() if isinstance(emb, TokenEmbeddings) else emb

    @property
    def aim(self) -> Aim:
        """What it is judged by: the task, where the rule was told of one."""
        return "task" if self.rule.targeted and "targets" in self.scores else self.rule.aim

    @property
    def tokens(self) -> Int[np.ndarray, "n"]:
        """Tokens that each choice is trained on."""
        return self.costs[self.selection.ranking]
