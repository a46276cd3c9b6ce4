"""Selectors that ask the language model, or are told of a task.

What they need beside the embeddings is numbers a row (N,) or weights of tokens (T,), which
`scoring` computes, or the rows of a task.
"""

import itertools
from typing import Any

import numpy as np
from jaxtyping import Float

from fisher_jax.design import Budget, Criterion, Purse, Ranking, TokenEmbeddings, take
from fisher_jax.selectors.optimal import fisher, i_optimal
from fisher_jax.selectors.registry import Terms, rule
from fisher_jax.util.errors import UserError


@rule("rows that the model finds likely", aim="score", needs=("losses",), by_label=True)
def perplexity_low(
    emb: TokenEmbeddings, budget: Budget, terms: Terms, *, losses: Float[np.ndarray, "N"]
) -> Ranking:
    """Rows of the lowest perplexity first (Marion et al. 2023, arXiv 2309.04564: "bottom").

    `exp(mean_j -log p(y_j))`, a row's; the order is that of the mean loss itself.

    Args:
        losses: mean NLL a row, `row_means(scores.nll_T, emb.offsets)`.
    """
    return take(budget, np.argsort(_checked(emb, "losses", losses), kind="stable"))


@rule(
    "rows of a middling loss",
    aim="score",
    needs=("losses",),
    by_label=True,
)
def perplexity_middle(
    emb: TokenEmbeddings, budget: Budget, terms: Terms, *, losses: Float[np.ndarray, "N"]
) -> Ranking:
    """Rows nearest to the median perplexity first (the source's "middle").

    Nearest by rank, as the source cuts by percentile: n of N rows are those from percentile
    50 - 50 n / N to 50 + 50 n / N.
    """
    order = np.argsort(_checked(emb, "losses", losses), kind="stable")
    from_median = np.abs(np.arange(len(order)) - (len(order) - 1) / 2)
    return take(budget, order[np.argsort(from_median, kind="stable")])


@rule("rows that the model finds unlikely", aim="score", needs=("losses",), by_label=True)
def perplexity_high(
    emb: TokenEmbeddings, budget: Budget, terms: Terms, *, losses: Float[np.ndarray, "N"]
) -> Ranking:
    """Rows of the highest perplexity first (the source's "top")."""
    return _highest(emb, budget, "losses", losses)


@rule("rows that the model calls informative", aim="score", needs=("quality",), by_label=True)
def ask_llm(
    emb: TokenEmbeddings, budget: Budget, terms: Terms, *, quality: Float[np.ndarray, "N"]
) -> Ranking:
    """Ask-LLM: rows first whose text the model calls informative (arXiv 2402.09668).

    Args:
        quality: P("yes") a row, `quality.ask_llm`. The source keeps the top, it does not sample.
    """
    return _highest(emb, budget, "quality", quality)


@rule("completions that their prompt helps least", aim="score", needs=("ifd",), by_label=True)
def ifd(
    emb: TokenEmbeddings, budget: Budget, terms: Terms, *, ifd: Float[np.ndarray, "N"]
) -> Ranking:
    """Cherry: rows first whose prompt helps least, of those where it helps (arXiv 2308.12032).

    Highest IFD first; rows above 1, whose prompt misleads, are dropped. They come back, lowest
    IFD first, only where the others do not use up the budget.

    Args:
        ifd: the ratio of mean losses with and without the prompt, `quality.ifd`.
    """
    values = _checked(emb, "ifd", ifd)
    is_dropped = values > 1
    return take(budget, np.lexsort((np.where(is_dropped, values, -values), is_dropped)))


@rule("rows whose tokens are predicted worst", aim="score", needs=("el2n",), by_label=True)
def el2n(
    emb: TokenEmbeddings, budget: Budget, terms: Terms, *, el2n: Float[np.ndarray, "N"]
) -> Ranking:
    """EL2N: rows of the largest error first, `mean_j |p_j - e_{y_j}|` (arXiv 2107.07075).

    The source averages over ten networks early in training; this is the one model at hand.

    Args:
        el2n: `scores.el2n`.
    """
    return _highest(emb, budget, "el2n", el2n)


@rule("rows of the largest gradients", aim="score", needs=("gradient_norm",), by_label=True)
def gradient_norm(
    emb: TokenEmbeddings, budget: Budget, terms: Terms, *, gradient_norm: Float[np.ndarray, "N"]
) -> Ranking:
    """GraNd of the last layer: `mean_j |p_j - e_{y_j}| |x_j|`, largest first (arXiv 2107.07075).

    Args:
        gradient_norm: `scores.gradient_norms`.
    """
    return _highest(emb, budget, "gradient_norm", gradient_norm)


def weighted(emb: TokenEmbeddings, weights: Float[np.ndarray, "T"]) -> TokenEmbeddings:
    """The embeddings `sqrt(w_t) x_t`, whose design is `sum_t w_t x_t x_t^T`.

    With `w = 1 - |p|^2` that is the trace over labels of the exact information
    `sum (diag(p) - p p^T) kron x x^T` (FisherSFT, arXiv 2505.14826, Section 3), where the paper
    bounds `diag(p) - p p^T` by a constant; with `w = |p - e_y|^2` it is that of the empirical
    one, `sum g g^T`. Weights scale the information, so divide them by their mean where a ridge
    should mean what it means without them.

    Raises:
        ValueError: weights that are not T finite numbers of at least 0.
    """
    weights = np.asarray(weights)
    if weights.shape != emb.tokens.shape[:1]:
        raise UserError(
            f"weights must be one a token, {len(emb.tokens)}, got shape {weights.shape}"
        )
    if not np.isfinite(weights).all() or weights.min() < 0:
        raise UserError("weights must be finite numbers of at least 0")
    return TokenEmbeddings(
        emb.tokens * np.sqrt(weights)[:, None].astype(emb.tokens.dtype), emb.offsets
    )


@rule(
    "as fisher_per_token, of tokens that the model is unsure of",
    name="fisher_weighted_per_token",
    needs=("weights",),
    criterion="gain_per_cost",
)
@rule("as fisher, of tokens that the model is unsure of", needs=("weights",), criterion="gain")
def fisher_weighted(
    emb: TokenEmbeddings,
    budget: Budget,
    terms: Terms,
    *,
    weights: Float[np.ndarray, "T"],
    criterion: Criterion = "gain",
) -> Ranking:
    """`fisher` on `weighted` embeddings: tokens that the model is sure of count for little.

    `argmax_i log det(I + X_i' V^-1 X_i'^T) / c_i`, X_i' the rows `sqrt(w_t) x_t`.

    Args:
        weights: `scores.fisher_trace_T` or, for the empirical information, `scores.gradient_T`.
        criterion: what c_i is, as in `fisher`.
    """
    return fisher(weighted(emb, weights), budget, terms, criterion=criterion).ranking


@rule("as i_optimal, of tokens that the model is unsure of", needs=("weights",), criterion="gain")
def i_optimal_weighted(
    emb: TokenEmbeddings,
    budget: Budget,
    terms: Terms,
    *,
    weights: Float[np.ndarray, "T"],
    criterion: Criterion = "gain",
) -> Ranking:
    """`i_optimal` on `weighted` embeddings: the pool's variance is averaged with the weights too.

    The largest fall of `tr(V^-1 Sigma)`, `Sigma = sum_t w_t x_t x_t^T / T`.
    """
    return i_optimal(weighted(emb, weights), budget, terms, criterion=criterion)


@rule(
    "rows most like those of a task",
    aim="task",
    needs=("targets",),
    targeted=True,
)
def rds(emb: TokenEmbeddings, budget: Budget, terms: Terms, *, targets: TokenEmbeddings) -> Ranking:
    """RDS+: each target in turn takes its most similar row that is left (arXiv 2503.01807).

    Args:
        targets: Q rows of the task, centred and scaled as `emb` is; see `task_similarity`.
    """
    purse = Purse(budget)
    for to_target in itertools.cycle(task_similarity(emb, targets)):
        if not purse.is_open.any():
            break
        purse.buy(int(np.argmax(np.where(purse.is_open, to_target, -np.inf))))
    return purse.ranking


def task_similarity(emb: TokenEmbeddings, targets: TokenEmbeddings) -> Float[np.ndarray, "Q N"]:
    """How like each of Q rows of a task is to each row of a pool, from -1 to 1.

    The cosine of the rows' means weighted by position (`TokenEmbeddings.pooled`, RDS+'s).
    """
    targets_QxD, rows_NxD = (_unit(e.pooled("position")) for e in (targets, emb))
    return targets_QxD @ rows_NxD.T


@rule("rows near which many are that the model is unsure of", aim="spread", needs=("uncertainty",))
def adaicl(
    emb: TokenEmbeddings,
    budget: Budget,
    terms: Terms,
    *,
    uncertainty: Float[np.ndarray, "N"],
    k: int = 5,
    hops: int = 2,
) -> Ranking:
    """AdaICL: cover the hard half of the pool with few rows (arXiv 2310.20046).

    Every row points to its k nearest rows by cosine. A row covers itself, the hard rows that
    point to it and, with 2 hops, the hard rows that point to those. The hard row that covers most
    hard rows not covered yet is chosen next, the lowest index of equals. When all are covered,
    the hard half of the rows that are left is taken, and it begins anew.

    The source asks the model again before it begins anew, with what it has annotated; here
    `uncertainty` stays. Its embeddings are a sentence encoder's, here the mean of a row's tokens.
    There a row does not cover itself, which leaves rows to which none points uncovered for good.

    Args:
        uncertainty: larger is harder: a row's mean entropy or mean NLL.
        k: neighbours a row points to, at most N - 1; the source's default is 5 with 2 hops.
    """
    if k < 1 or hops not in (1, 2):
        raise UserError(f"k must be at least 1 and hops 1 or 2, got k={k} and hops={hops}")
    hardest_first = np.argsort(-_checked(emb, "uncertainty", uncertainty), kind="stable")
    points = _unit(emb.pooled("mean"))
    pointed_from = _nearest(points, min(k, len(emb) - 1)).T.tocsr()
    purse = Purse(budget)
    while purse.is_open.any():
        left = hardest_first[purse.is_open[hardest_first]]
        hard = np.sort(left[: max(1, len(left) // 2)])
        covers = _reach(pointed_from[hard][:, hard], hops)
        uncovered = np.ones(len(hard), np.int32)
        while (gains := np.where(purse.is_open[hard], covers @ uncovered, 0)).any():
            place = int(np.argmax(gains))
            uncovered[covers[[place]].indices] = 0
            purse.buy(int(hard[place]))
    return purse.ranking


def _reach(pointed_from: Any, hops: int) -> Any:
    """Sparse (N, N): ones at what each row covers, itself and those within so many steps."""
    from scipy.sparse import eye_array

    one = pointed_from + eye_array(pointed_from.shape[0], dtype=pointed_from.dtype, format="csr")
    return ((one @ one if hops == 2 else one) > 0).astype(np.int32)


def _nearest(unit: Float[np.ndarray, "N D"], k: int) -> Any:
    """Sparse (N, N): ones at the k rows of largest cosine to each row, itself left out."""
    from scipy.sparse import csr_array

    n, columns = len(unit), []
    for begin in range(0, n if k else 0, 1024):
        cosines = unit[begin : begin + 1024] @ unit.T
        cosines[np.arange(len(cosines)), begin + np.arange(len(cosines))] = -np.inf
        columns.append(np.argpartition(-cosines, k - 1, axis=1)[:, :k])
    indices = np.concatenate(columns).ravel() if columns else np.empty(0, np.int64)
    return csr_array((np.ones(n * k, np.int32), indices, np.arange(n + 1) * k), shape=(n, n))


def _unit(points: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    norms = np.linalg.norm(points, axis=1, keepdims=True)
    return points / np.maximum(norms, np.finfo(points.dtype).tiny)


def _checked(emb: TokenEmbeddings, name: str, values: np.ndarray) -> Float[np.ndarray, "N"]:
    values = np.asarray(values, np.float64)
    if values.shape != (len(emb),) or not np.isfinite(values).all():
        raise UserError(f"{name} must be {len(emb)} finite numbers, one a row")
    return values


def _highest(emb: TokenEmbeddings, budget: Budget, name: str, values: np.ndarray) -> Ranking:
    return take(budget, np.argsort(-_checked(emb, name, values), kind="stable"))
