"""Selectors that are optimal designs: D-optimal (FisherSFT's) and I-optimal, and their variants."""

from typing import Any

import numpy as np
from jaxtyping import Float

from fisher_jax import design
from fisher_jax.design import (
    Budget,
    Criterion,
    Pooling,
    Ranking,
    Selection,
    TokenEmbeddings,
    TokenSource,
    take,
)
from fisher_jax.selectors.registry import Terms, rule
from fisher_jax.util.errors import UserError
from fisher_jax.util.streams import stream


@rule(
    "most new information by the token: short, varied rows, and noise",
    name="fisher_per_token",
    criterion="gain_per_cost",
    streams=True,
    adds=True,
    weighs=True,
    divides=True,
)
@rule(
    "most new information by the row: long rows, and noise",
    criterion="gain",
    streams=True,
    adds=True,
    weighs=True,
    divides=True,
)
def fisher(
    emb: TokenSource,
    budget: Budget,
    terms: Terms,
    *,
    criterion: Criterion = "gain",
    power: float | int = 1,
    quality: Float[np.ndarray, "N"] | None = None,
    quality_weight: float | int = 1.0,
    mesh: Any = None,
) -> Selection:
    """FisherSFT, D-optimal: the largest information gain at each step (arXiv 2505.14826).

    `argmax_i log det(I + X_i V^-1 X_i^T) / c_i`, Algorithm 2. c_i is 1 by criterion "gain", the
    paper's, whatever a row costs; by "gain_per_cost" it is what the row costs, to a power.

    Args:
        power: of the cost. Gains grow more slowly than lengths, so 1 prefers short rows and 0 long
            ones.
        quality, quality_weight: nats beside the gain, as in `fisher_jax.select`.
        mesh: devices over which the pool is divided, as there (its type would import JAX).
    """
    per = budget.divisors(emb, criterion, power)
    bonus = None if quality is None else design.worth_of(len(emb), quality, quality_weight)
    return design.greedily(
        *(emb, budget, per),
        ridge=terms.ridge,
        bonus=bonus,
        mesh=mesh,
        on_progress=terms.on_progress,
    )


@rule(
    "as fisher, looking at a random sample of rows for each choice",
    nested=False,
    criterion="gain",
    streams=True,
)
def fisher_stochastic(
    emb: TokenSource,
    budget: Budget,
    terms: Terms,
    *,
    criterion: Criterion = "gain",
    epsilon: float = 0.1,
) -> Selection:
    """Stochastic greedy: at least 1 - 1/e - epsilon of the best f, in expectation over its draws.

    `design.stochastic_greedy` says when, and how large the samples are.
    """
    per = budget.divisors(emb, criterion)
    return design.stochastic_greedy(emb, budget, per, epsilon=epsilon, **terms._asdict())


@rule(
    "as fisher, within random parts of the pool and then among what they chose",
    nested=False,
    criterion="gain",
    streams=True,
)
def fisher_in_parts(
    emb: TokenSource,
    budget: Budget,
    terms: Terms,
    *,
    criterion: Criterion = "gain",
    parts: int | None = None,
) -> Selection:
    """RandGreeDI: at least (1 - 1/e) / 2 of the best f, in expectation over its parts.

    `design.in_two_rounds` says when. For many devices, or a pool that fits in memory by parts only.
    """
    per = budget.divisors(emb, criterion)
    return design.in_two_rounds(emb, budget, per, parts=parts, **terms._asdict())


@rule(
    "as fisher, in one pass over rows in random order",
    nested=False,
    criterion="gain",
    streams=True,
    grouped=False,
)
def fisher_sieve(
    emb: TokenSource,
    budget: Budget,
    terms: Terms,
    *,
    criterion: Criterion = "gain",
    epsilon: float = 0.2,
    alpha: float = 0.15,
) -> Selection:
    """ThreeSieves: takes a row whose gain is above a threshold that falls; reads each row once.

    `design.in_one_pass` says how, and what is known of its share of the best f.
    """
    per = budget.divisors(emb, criterion)
    return design.in_one_pass(emb, budget, per, epsilon=epsilon, alpha=alpha, **terms._asdict())


@rule(
    "half of the budget as fisher, half random rows",
    nested=False,
    criterion="gain",
    adds=True,
)
def fisher_mixed(
    emb: TokenEmbeddings,
    budget: Budget,
    terms: Terms,
    *,
    criterion: Criterion = "gain",
    share: float | int = 0.5,
) -> Ranking:
    """`fisher` for a `share` of the budget, then uniform rows: dampens selection bias.

    A share that pays for no row is none.

    Raises:
        UserError: a share that is not from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise UserError(f"share must be from 0 to 1, got {share}")
    part, first = budget._replace(total=share * budget.total), np.empty(0, np.int64)
    if part.total >= budget.costs.min():
        first = fisher(emb, part, terms, criterion=criterion).ranking
    order = stream(terms.seed, "fisher_mixed").permutation(len(emb))
    return take(budget, np.concatenate([first, order[~np.isin(order, first)]]))


@rule(
    "rows drawn by their information, with weights for an unbiased fit",
    nested=False,
    adds=True,
    grouped=False,
)
def fisher_random(
    emb: TokenEmbeddings, budget: Budget, terms: Terms, *, epsilon: float = 0.5
) -> Ranking:
    """A random draw from an approximately D-optimal design; `randomized.draw_fisher` says how.

    That function also returns the weights which make a weighted fit unbiased.
    """
    drawn = design.draw_fisher(emb, budget, ridge=terms.ridge, seed=terms.seed, epsilon=epsilon)
    return drawn.ranking


@rule(
    "as i_optimal, by the token",
    name="i_optimal_per_token",
    targeted=True,
    criterion="gain_per_cost",
    adds=True,
)
@rule(
    "rows that make predictions for the pool, or for a task, most certain",
    targeted=True,
    criterion="gain",
    adds=True,
)
def i_optimal(
    emb: TokenEmbeddings,
    budget: Budget,
    terms: Terms,
    *,
    targets: TokenEmbeddings | None = None,
    criterion: Criterion = "gain",
    power: float | int = 1,
) -> Ranking:
    """The largest fall of the mean prediction variance `tr(V^-1 Sigma)` at each step.

    Args:
        targets: rows of the task, whose tokens' mean x x^T is Sigma; default the pool itself.
        criterion, power: what the fall is divided by, as in `fisher`.
    """
    per = budget.divisors(emb, criterion, power)
    return design.least_variance(
        emb, budget, per, ridge=terms.ridge, targets=targets, on_progress=terms.on_progress
    )


@rule(
    "most new information by a row's mean vector: short and unusual rows",
    criterion="gain",
)
def sentence_od(
    emb: TokenEmbeddings,
    budget: Budget,
    terms: Terms,
    *,
    criterion: Criterion = "gain",
    pooling: Pooling = "mean",
) -> Ranking:
    """The same D-optimal design on one pooled vector a row, SentenceOD of FisherSFT's Section 5.

    `argmax_i log(1 + e_i^T V^-1 e_i)`, V = ridge I + sum over the chosen of e e^T. The paper does
    not say how a sentence is pooled; `pooling` is as in `TokenEmbeddings.pooled`.
    """
    pooled = TokenEmbeddings(emb.pooled(pooling), np.arange(len(emb) + 1))
    per = budget.divisors(emb, criterion)
    return design.greedily(
        pooled, budget, per, ridge=terms.ridge, on_progress=terms.on_progress
    ).ranking


@rule(
    "most exact information, for small planted problems",
    needs=("theta",),
    criterion="gain",
)
def exact_information(
    emb: TokenEmbeddings,
    budget: Budget,
    terms: Terms,
    *,
    theta: Float[np.ndarray, "D L"],
    criterion: Criterion = "gain",
) -> Ranking:
    """Greedy on `log det(ridge I + H_S)`, H_S the exact (reduced) information at `theta`.

    `H_S = sum (diag(p) - p p^T) kron x x^T` (FisherSFT, Section 3) without its null direction.
    A row of M tokens becomes M L rows of width D (L - 1): for small problems.
    """
    from fisher_jax.design.softmax_model import information_rows  # brings JAX

    theta = np.asarray(theta)
    if theta.ndim != 2 or theta.shape[0] != emb.dim or theta.shape[1] < 2:
        raise UserError(
            f"theta must be (D, L) with D = {emb.dim} and L >= 2, got shape {theta.shape}"
        )
    if not np.isfinite(theta).all():
        raise UserError("theta must be finite numbers")
    lifted = TokenEmbeddings(information_rows(theta, emb.tokens), emb.offsets * theta.shape[1])
    per = budget.divisors(emb, criterion)
    return design.greedily(
        lifted, budget, per, ridge=terms.ridge, on_progress=terms.on_progress
    ).ranking
