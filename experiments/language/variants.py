"""Every way of choosing rows that the language experiment tries: filter, features, rule, ridge."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from fisher_jax.data import Example
from fisher_jax.data.duplicates import deduplicate_exact, deduplicate_near
from fisher_jax.design import Budget, TokenEmbeddings, draw_fisher
from fisher_jax.models import LanguageModel
from fisher_jax.scoring import Endpoint, Inputs
from fisher_jax.selectors import SELECTORS, weighted
from fisher_jax.util.errors import UserError


class Variant(NamedTuple):
    """A way of choosing.

    Attributes:
        rule: a key of SELECTORS, or TASK: no row of the pool, but the rows that
            targeted rules are told of, in random order (all of them, where the budget allows).
        features: what the rule sees of a row, see `Candidates._features_of`.
        keep: rows it may choose: all, one of each "exact" or "near" duplicate, or of the latter
            those without the quarter of the pool that the model finds least likely ("plain").
        ridge: for embeddings with a mean squared norm of 1.
        targeted: the rule is told of rows from the test's distribution, as RDS+ is.
        power: of a row's tokens, by which the gain is divided, where the rule takes one.
    """

    rule: str
    features: str = "tokens"
    keep: str = "all"
    ridge: float = 1.0
    targeted: bool = False
    power: float = 1.0


TASK = "task"
_NAMED = {
    "task_rows": Variant(TASK),
    "uniform_exact": Variant("uniform", keep="exact"),
    "uniform_near": Variant("uniform", keep="near"),
    "near_fisher_per_token": Variant("fisher_per_token", keep="near"),
    "near_unit": Variant("fisher_per_token", "unit", keep="near"),
    "near_middle": Variant("perplexity_middle", keep="near"),
    "plain_uniform": Variant("uniform", keep="plain"),
    "plain_unit": Variant("fisher_per_token", "unit", keep="plain"),
    "centred": Variant("fisher_per_token", "centred"),
    "whitened": Variant("fisher_per_token", "whitened"),
    "unit_tokens": Variant("fisher_per_token", "unit"),
    "row_means": Variant("fisher_per_token", "row_mean"),
    "row_means_ridge_01": Variant("fisher_per_token", "row_mean", ridge=0.1),
    "row_means_centred": Variant("fisher_per_token", "row_mean_centred"),
    "trace": Variant("fisher_per_token", "trace"),
    "error": Variant("fisher_per_token", "error"),
    "i_row_means": Variant("i_optimal_per_token", "row_mean"),
    "near_row_means": Variant("fisher_per_token", "row_mean", keep="near"),
    "rds": Variant("rds", targeted=True),
    "near_rds_centred": Variant("rds", "centred", keep="near", targeted=True),
    "near_i_unit": Variant("i_optimal_per_token", "unit", "near"),
    "i_target": Variant("i_optimal_per_token", "unit", "near", targeted=True),
    "near_unit_09": Variant("fisher_per_token", "unit", "near", power=0.9),
    "i_target_09": Variant("i_optimal_per_token", "unit", "near", targeted=True, power=0.9),
    "i_target_08": Variant("i_optimal_per_token", "unit", "near", targeted=True, power=0.8),
    "layers_025": Variant("fisher_per_token", "layers_0.25"),
    "layers_05": Variant("fisher_per_token", "layers_0.5"),
    "layers_075": Variant("fisher_per_token", "layers_0.75"),
    "rds_layers_05": Variant("rds", "layers_0.5", targeted=True),
    "i_target_centred": Variant("i_optimal_per_token", "centred", "near", targeted=True),
}
VARIANTS = {name: Variant(name) for name, rule in SELECTORS.items() if not rule.planted} | _NAMED


class Chosen(NamedTuple):
    """Rows in order of choice, and their weights in the loss if the rule has any.

    They are rows of the pool, or of the task that targeted rules are told of.
    """

    rows: Int[np.ndarray, "n"]
    weights: Float[np.ndarray, "n"] | None = None
    of_task: bool = False

    @property
    def key(self) -> bytes:
        """The same for the same choice."""
        arrays = [x.tobytes() for x in (self.rows, self.weights) if x is not None]
        return b"".join([bytes([self.of_task]), *arrays])


class Candidates:
    """A pool's rows with all that the variants may look at.

    Args:
        rows: as read.
        hidden: their counted positions' states, as the head multiplies them.
        head: of the model, for what it says of the labels.
        labels: of those positions.
        targets: states of rows from the test's distribution (validation), for targeted rules.
        model: for Ask-LLM and IFD, which read the rows once more.
        costs: tokens of each row for the model that is trained, where another selects.
        earlier: states of the pool and of the targets after a share of the model's layers.
        asked: by Ask-LLM, instead of the model; a model here, or at an endpoint.
    """

    def __init__(
        self,
        rows: list[Example],
        hidden: TokenEmbeddings,
        head: np.ndarray,
        labels: Int[np.ndarray, "T"],
        targets: TokenEmbeddings,
        model: LanguageModel | None = None,
        costs: Int[np.ndarray, "N"] | None = None,
        earlier: Callable[[float], list[TokenEmbeddings]] | None = None,
        asked: LanguageModel | Endpoint | None = None,
    ) -> None:
        self.rows, self.hidden, self.targets, self.earlier = rows, hidden, targets, earlier
        self.inputs = Inputs(hidden, head, labels, rows, model)
        endpoint = asked if isinstance(asked, Endpoint) else None
        here = model if asked is None or isinstance(asked, Endpoint) else asked
        self._asking = Inputs(hidden, head, labels, rows, here, endpoint=endpoint)
        self.kept = functools.cache(self._kept)
        self.features_of = functools.lru_cache(3)(self._features_of)
        self.costs = np.asarray(hidden.lengths if costs is None else costs, np.float64)

    def _kept(self, keep: str) -> Int[np.ndarray, "n"]:
        """Rows that a filter leaves."""
        if keep == "all":
            return np.arange(len(self.rows))
        if keep == "exact":
            return deduplicate_exact(self.rows)
        if keep == "near":
            return deduplicate_near(self.rows)
        near, losses = self.kept("near"), self.inputs["losses"]  # plain
        return near[losses[near] <= np.quantile(losses, 0.75)]

    def choose(self, name: str, *, n: int, equal: str, seed: int) -> Chosen:
        """Rows for n examples, or for the tokens of n average rows."""
        variant = VARIANTS[name]
        tokens = n * float(self.costs.mean())
        if variant.rule == TASK:
            lengths = self.targets.lengths.astype(np.float64)
            budget = (
                Budget(np.ones(len(lengths)), min(n, len(lengths)), in_examples=True)
                if equal == "examples"
                else Budget(lengths, tokens)
            )
            return Chosen(SELECTORS["uniform"].rank(self.targets, budget, seed=seed), of_task=True)
        kept = self.kept(variant.keep)
        features, targets = self.features_of(variant.features)
        features = rows_of(features, kept)
        costs = self.costs[kept]
        budget = (
            Budget(np.ones(len(kept)), min(n, len(kept)), in_examples=True)
            if equal == "examples"
            else Budget(costs, tokens)
        )
        if variant.rule == "fisher_random":
            draw = draw_fisher(features, budget, ridge=variant.ridge, seed=seed)
            return Chosen(kept[draw.ranking], draw.weights)
        selector = SELECTORS[variant.rule]
        extra: dict[str, Any] = {"targets": targets} if variant.targeted else {}
        if variant.power != 1:
            extra["power"] = variant.power
        for needed in selector.needs:
            if needed not in extra:
                inputs = self._asking if needed == "quality" else self.inputs
                extra[needed] = inputs.of(needed, kept)
        ranking = selector.rank(features, budget, ridge=variant.ridge, seed=seed, **extra)
        return Chosen(kept[ranking])

    def _features_of(self, features: str) -> tuple[TokenEmbeddings, TokenEmbeddings]:
        """Embeddings with a mean squared norm of 1 a token (row means: a row); the targets' alike.

        tokens: the states; centred: less their mean; whitened: decorrelated, the spectrum's tail
        shrunk; unit: each token of norm 1; row_mean: the row's mean, of norm 1; row_mean_centred:
        the same of centred states; trace and error: states times the root of `1 - |p|^2` and
        `|p - e_y|^2`, the targets' without; layers_S: the states after a share S of the layers.
        """
        seen = self.hidden, self.targets
        if features.startswith("layers_"):
            if self.earlier is None:
                raise UserError(f"features {features!r} need earlier=, the states of such layers")
            seen = self.earlier(float(features.removeprefix("layers_")))
        mean = self.hidden.tokens.mean(axis=0)
        unmixed = None
        if features == "whitened":
            x = self.hidden.tokens - mean
            energy, directions = np.linalg.eigh(x.T.astype(np.float64) @ x / len(x))
            unmixed = (directions / np.sqrt(energy + energy.mean())).astype(x.dtype)

        def transformed(x: np.ndarray, offsets: np.ndarray) -> TokenEmbeddings:
            if features.endswith("centred") or unmixed is not None:
                x = x - mean
            if unmixed is not None:
                x = x @ unmixed
            if features == "unit":
                x = x / np.linalg.norm(x, axis=1, keepdims=True)
            if features.startswith("row_mean"):
                x = TokenEmbeddings(x, offsets).pooled("mean")
                x /= np.linalg.norm(x, axis=1, keepdims=True)
                offsets = np.arange(len(x) + 1)
            return TokenEmbeddings(x, offsets)

        pool, targets = (transformed(emb.tokens, emb.offsets) for emb in seen)
        if features in ("trace", "error"):
            scores = self.inputs.scores
            pool = weighted(
                pool, scores.fisher_trace_T if features == "trace" else scores.gradient_T
            )
        scale = np.float32(np.sqrt(pool.mean_squared_norm()))
        return (
            TokenEmbeddings(pool.tokens / scale, pool.offsets),
            TokenEmbeddings(targets.tokens / scale, targets.offsets),
        )


def rows_of(emb: TokenEmbeddings, rows: Int[np.ndarray, "n"]) -> TokenEmbeddings:
    """The embeddings of some rows."""
    if len(rows) == len(emb):
        return emb
    return TokenEmbeddings.from_list([emb[i] for i in rows])
