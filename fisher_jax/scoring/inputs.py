"""What selectors need beside embeddings, computed from the model when one asks."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int

from fisher_jax.data import Example
from fisher_jax.design import TokenEmbeddings
from fisher_jax.models import LanguageModel
from fisher_jax.scoring.endpoint import Endpoint
from fisher_jax.scoring.quality import ask_llm, ask_llm_endpoint, ifd
from fisher_jax.scoring.scores import (
    TokenScores,
    el2n,
    gradient_norms,
    row_means,
    token_scores,
    top_probabilities,
)
from fisher_jax.util.progress import OnProgress

BY_ROW = ("losses", "uncertainty", "el2n", "gradient_norm", "quality", "ifd")  # a number a row
TOP = 32  # labels a token that BADGE looks at


class Inputs:
    """Named inputs of a pool's selectors, see `__getitem__`.

    Args:
        hidden: states of the counted positions as the head multiplies them (`normalize="none"`).
        head_LxD: the model's last layer.
        labels_T: what follows each of those tokens, `scores.labels_of`.
        rows: texts, for the two inputs for which the model reads them once more.
        model: for the same.
        max_length: of a row, for IFD; Ask-LLM reads a text up to the model's context.
        eos: whether the end of a row counts, for IFD.
        batch_tokens: of their forward passes, see `embed`.
        endpoint: is asked for Ask-LLM's quality instead of the model.
        on_progress: called with the tokens (for those two, the rows) done.
    """

    def __init__(
        self,
        hidden: TokenEmbeddings,
        head_LxD: Float[Array | np.ndarray, "L D"],
        labels_T: Int[np.ndarray, "T"],
        rows: Sequence[str | Example] = (),
        model: LanguageModel | None = None,
        max_length: int | None = None,
        eos: bool | None = None,
        batch_tokens: int | None = None,
        endpoint: Endpoint | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        self.hidden, self.rows, self.model = hidden, rows, model
        self._head, self._labels, self._on_progress = head_LxD, labels_T, on_progress
        self._cut, self._batch_tokens = {"max_length": max_length, "eos": eos}, batch_tokens
        self._endpoint = endpoint
        self._cap = None if model is None else model.module.logit_cap
        self._known: dict[str, Any] = {}

    @functools.cached_property
    def scores(self) -> TokenScores:
        """What the model says of the labels."""
        tokens = self.hidden.tokens
        told = {"on_progress": self._on_progress, "cap": self._cap}
        return token_scores(self._head, tokens, self._labels, **told)

    def __getitem__(self, name: str) -> Any:
        """An input by the name of the selectors' argument.

        - `losses`: mean NLL a row, nats; `uncertainty`: mean entropy a row, nats;
        - `el2n`, `gradient_norm`, `quality` (Ask-LLM), `ifd`: a number a row, as in `quality`;
        - `weights`: the Fisher trace `1 - |p|^2` of each token, their mean is 1;
        - `probabilities`: (T, L), sparse: those of each token's 32 likeliest labels.

        Raises:
            KeyError: another name, or one that needs a model where there is none.
        """
        if name not in self._known:
            self._known[name] = self._computed(name)
        return self._known[name]

    def of(self, name: str, rows: Int[np.ndarray, "n"]) -> Any:
        """The same of some rows only."""
        value, lengths = self[name], self.hidden.lengths
        if len(rows) == len(lengths):
            return value
        if np.ndim(value) == 1 and len(value) == len(lengths):
            return value[rows]
        return value[np.concatenate([np.arange(*self.hidden.offsets[i : i + 2]) for i in rows])]

    def _computed(self, name: str) -> Any:
        hidden = self.hidden
        reading = {"batch_tokens": self._batch_tokens, "on_progress": self._on_progress}
        if name == "quality" and self._endpoint is not None:
            return ask_llm_endpoint(self._endpoint, self.rows, on_progress=self._on_progress)
        if name == "quality" and self.model is not None:
            return ask_llm(self.model, self.rows, **reading)
        if name == "ifd" and self.model is not None:
            return ifd(self.model, self.rows, **self._cut, **reading)
        if name == "losses":
            return row_means(self.scores.nll_T, hidden.offsets)
        if name == "uncertainty":
            return row_means(self.scores.entropy_T, hidden.offsets)
        if name == "el2n":
            return el2n(self.scores, hidden.offsets)
        if name == "gradient_norm":
            return gradient_norms(self.scores, hidden.tokens, hidden.offsets)
        if name == "weights":
            return self.scores.fisher_trace_T / self.scores.fisher_trace_T.mean()
        if name == "probabilities":
            from scipy.sparse import csr_array  # takes a moment to import

            k, shape = min(TOP, len(self._head)), (len(hidden.tokens), len(self._head))
            p_Txk, labels_Txk = top_probabilities(
                self._head, hidden.tokens, k, on_progress=self._on_progress, cap=self._cap
            )
            starts = np.arange(len(p_Txk) + 1) * k
            return csr_array((p_Txk.ravel(), labels_Txk.ravel(), starts), shape=shape)
        raise KeyError(name)
