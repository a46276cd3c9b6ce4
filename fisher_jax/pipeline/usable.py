"""Rows that can be used: they have tokens to predict, and what their selector needs."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from fisher_jax.data import Example
from fisher_jax.data.pool_file import PoolFile
from fisher_jax.models import LanguageModel, TokenizedRows, tokenize
from fisher_jax.pipeline.request import Request
from fisher_jax.scoring import completions_alone
from fisher_jax.util.errors import UserError
from fisher_jax.util.excerpt import counted


class Usable(NamedTuple):
    """Rows of a file that can be used.

    Attributes:
        at: (n,) which rows of the file they are.
        texts: the rows.
        tokens: of each.
        n_skipped: how many others there were.
        lacks: what those lack.
    """

    at: Int[np.ndarray, "n"]
    texts: list[Example]
    tokens: TokenizedRows
    n_skipped: int
    lacks: str

    @property
    def n_cut(self) -> int:
        """How many of them were cut."""
        return int(self.tokens.cut.sum())

    def notes(self, limit: int, whose: str = "") -> list[str]:
        """Sentences on what was skipped, and cut at so many tokens."""
        notes = []
        if self.n_skipped:
            rows, was = f"{counted(self.n_skipped, 'row')}{whose}", _was(self.n_skipped)
            notes.append(f"{rows} with {self.lacks} {was} skipped.")
        if self.n_cut:
            rows, was = f"{counted(self.n_cut, 'row')}{whose}", _was(self.n_cut)
            notes.append(f"{rows} {was} longer than {limit:,} tokens and {was} cut.")
        return notes


def usable(
    request: Request, model: LanguageModel, file: PoolFile, at: Int[np.ndarray, "N"]
) -> Usable:
    """Those of the rows `at` of a file that have what is needed.

    Raises:
        UserError: there are others and they may not be skipped, or all are.
    """
    assert file.rows is not None
    texts = [file.rows[i] for i in at]
    tokens = tokenize(
        model,
        texts,
        request.max_length,
        request.positions,
        lambda i: file.where(int(at[i])),
        eos=request.eos,
    )
    is_empty, lacks = tokens.counted == 0, "no token to predict"
    if "ifd" in request.asked:
        prompts = np.array([bool(row.prompt or (row.is_chat and row.has_prompt)) for row in texts])
        completions = tokens  # whatever else counts
        if request.positions != "completion":
            completions = tokenize(model, texts, request.max_length, eos=request.eos)
        is_empty |= ~prompts | (completions_alone(model, completions).counted == 0)
        lacks = "no prompt or no token to predict without it"
    empty, some = np.flatnonzero(is_empty), np.flatnonzero(~is_empty)
    if len(empty) and request.on_empty == "error":
        first = ", ".join(file.where(int(at[i])).split(", ")[-1] for i in empty[:5])
        raise UserError(
            f"{file.path}: {len(empty)} row(s) have {lacks} ({first}"
            f"{', ...' if len(empty) > 5 else ''}): pass `on_empty=skip` to leave "
            "them out, or mend them, or raise `max_length` where it cut them"
        )
    if len(some) == 0:
        raise UserError(
            f"{file.path}: no row has a token to predict: give rows two tokens or "
            "more and a completion, or a larger `max_length`"
        )
    return Usable(at[some], [texts[i] for i in some], tokens.take(some), len(empty), lacks)


def _was(n: int) -> str:
    return "was" if n == 1 else "were"
