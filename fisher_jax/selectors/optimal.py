"""Selectors that are optimal designs: D-optimal (FisherSFT's) and I-optimal, and their variants."""

import numpy as np
from jaxtyping import Float

from fisher_jax.design import (
    Budget,
    Pooling,
    Ranking,
    Selection,
    TokenEmbeddings,
    draw_fisher,
    greedily,
    least_variance,
    take,
)
from fisher_jax.design.softmax_model import information_rows
from fisher_jax.util.errors import UserError
from fisher_jax.util.progress import OnProgress
from fisher_jax.util.streams import stream


def fisher(
    emb: TokenEmbeddings,
    budget: Budget,
    *,
    ridge: float | int,
    on_progress: OnProgress | None = None,
) -> Selection:
    """FisherSFT: the largest information gain at each step, whatever a row costs.

    `argmax_i log det(I + X_i V^-1 X_i^T)` (arXiv 2505.14826, Algorithm 2). With a token budget
    this is the paper's criterion until nothing fits, where `fisher_jax.select` goes by gain per
    token; that one is `fisher_per_token`.
    """
    return greedily(emb, budget, np.ones(len(emb)), ridge=ridge, on_progress=on_progress)


def fisher_per_token(
    emb: TokenEmbeddings,
    budget: Budget,
    *,
    ridge: float | int,
    power: float | int = 1,
    on_progress: OnProgress | None = None,
) -> Selection:
    """D-optimal per token: the largest `log det(I + X_i V^-1 X_i^T) / M_i` at each step.

    Args:
        power: of M_i. Gains grow more slowly than lengths, so 1 prefers short rows and 0 long
            ones.

    Raises:
        ValueError: a power that is not finite.
    """
    per = _per_token(emb, budget, power)
    return greedily(emb, budget, per, ridge=ridge, on_progress=on_progress)


def fisher_mixed(
    emb: TokenEmbeddings,
    budget: Budget,
    *,
    ridge: float | int,
    seed: int,
    share: float | int = 0.5,
    on_progress: OnProgress | None = None,
) -> Ranking:
    """`fisher` for a `share` of the budget, then uniform rows: dampens selection bias.

    A share that pays for no row is none.

    Raises:
        ValueError: a share that is not from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise UserError(f"share must be from 0 to 1, got {share}")
    part, first = budget._replace(total=share * budget.total), np.empty(0, np.int64)
    if part.total >= budget.costs.min():
        first = fisher(emb, part, ridge=ridge, on_progress=on_progress).ranking
    order = stream(seed, "fisher_mixed").permutation(len(emb))
    return take(budget, np.concatenate([first, order[~np.isin(order, first)]]))


def fisher_random(
    emb: TokenEmbeddings,
    budget: Budget,
    *,
    ridge: float | int,
    seed: int,
    epsilon: float = 0.5,
) -> Ranking:
    """A random draw from an approximately D-optimal design; `randomized.draw_fisher` says how.

    That function also returns the weights which make a weighted fit unbiased.
    """
    return draw_fisher(emb, budget, ridge=ridge, seed=seed, epsilon=epsilon).ranking


def i_optimal(
    emb: TokenEmbeddings,
    budget: Budget,
    *,
    ridge: float | int,
    targets: TokenEmbeddings | None = None,
    on_progress: OnProgress | None = None,
) -> Ranking:
    """The largest fall of the mean prediction variance `tr(V^-1 Sigma)` at each step.

    Args:
        targets: rows of the task, whose tokens' mean x x^T is Sigma; default the pool itself.
    """
    per = np.ones(len(emb))
    return least_variance(emb, budget, per, ridge=ridge, targets=targets, on_progress=on_progress)


def i_optimal_per_token(
    emb: TokenEmbeddings,
    budget: Budget,
    *,
    ridge: float | int,
    targets: TokenEmbeddings | None = None,
    power: float | int = 1,
    on_progress: OnProgress | None = None,
) -> Ranking:
    """`i_optimal`, the fall divided by the row's tokens; `power` as in `fisher_per_token`."""
    per = _per_token(emb, budget, power)
    return least_variance(emb, budget, per, ridge=ridge, targets=targets, on_progress=on_progress)


def sentence_od(
    emb: TokenEmbeddings,
    budget: Budget,
    *,
    ridge: float | int,
    pooling: Pooling = "mean",
    on_progress: OnProgress | None = None,
) -> Ranking:
    """The same D-optimal design on one pooled vector a row, SentenceOD of FisherSFT's Section 5.

    `argmax_i log(1 + e_i^T V^-1 e_i)`, V = ridge I + sum over the chosen of e e^T. The paper does
    not say how a sentence is pooled; `pooling` is as in `TokenEmbeddings.pooled`.
    """
    pooled = TokenEmbeddings(emb.pooled(pooling), np.arange(len(emb) + 1))
    per = np.ones(len(emb))
    return greedily(pooled, budget, per, ridge=ridge, on_progress=on_progress).ranking


def exact_information(
    emb: TokenEmbeddings,
    budget: Budget,
    *,
    ridge: float | int,
    theta: Float[np.ndarray, "D L"],
    on_progress: OnProgress | None = None,
) -> Ranking:
    """Greedy on `log det(ridge I + H_S)`, H_S the exact (reduced) information at `theta`.

    `H_S = sum (diag(p) - p p^T) kron x x^T` (FisherSFT, Section 3) without its null direction.
    A row of M tokens becomes M L rows of width D (L - 1): for small problems.
    """
    theta = np.asarray(theta)
    if theta.ndim != 2 or theta.shape[0] != emb.dim or theta.shape[1] < 2:
        raise UserError(
            f"theta must be (D, L) with D = {emb.dim} and L >= 2, got shape {theta.shape}"
        )
    if not np.isfinite(theta).all():
        raise UserError("theta must be finite numbers")
    lifted = TokenEmbeddings(information_rows(theta, emb.tokens), emb.offsets * theta.shape[1])
    per = np.ones(len(emb))
    return greedily(lifted, budget, per, ridge=ridge, on_progress=on_progress).ranking


def _per_token(emb: TokenEmbeddings, budget: Budget, power: float | int) -> np.ndarray:
    """What a gain is divided by: the costs that are paid, or tokens where examples are counted."""
    if not np.isfinite(power):
        raise UserError(f"power must be a finite number, got {power}")
    return (emb.lengths.astype(np.float64) if budget.in_examples else budget.costs) ** power
