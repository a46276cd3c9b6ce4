"""A randomised optimal design: rows drawn from approximately D-optimal weights.

A deterministic selection that looks at the embeddings of the tokens to be learnt also selects on
their labels, and biases what is fitted. Drawing rows with known, positive inclusion probabilities
and weighting the loss by their inverse does not (Horvitz & Thompson 1952).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fisher_jax.design.budget import Budget
from fisher_jax.design.embeddings import TokenEmbeddings
from fisher_jax.design.linalg import HIGHEST
from fisher_jax.design.precision import computing
from fisher_jax.util.errors import UserError
from fisher_jax.util.streams import stream

STEPS = 50


class Draw(NamedTuple):
    """A random selection.

    Attributes:
        ranking: (n,) indices in the order drawn.
        weights: (n,) of each chosen row for the loss, inverse to its inclusion probability; 1 on
            average over draws, and exactly 1 for a uniform design.
        inclusion: (N,) each row's probability to be drawn.
    """

    ranking: Int[np.ndarray, "n"]
    weights: Float[np.ndarray, "n"]
    inclusion: Float[np.ndarray, "N"]


def draw_fisher(
    emb: TokenEmbeddings,
    budget: Budget,
    *,
    ridge: float | int,
    seed: int,
    epsilon: float = 0.5,
) -> Draw:
    """Rows drawn with probability `min(1, k ((1 - epsilon) w_i + epsilon c_i / sum c) / c_i)`.

    w is `optimal_design`, which is sparse; the uniform part keeps every weight below about
    1 / epsilon. k spends the budget in expectation. Systematic sampling in random order: for a
    budget of examples always exactly that many rows. With costs, rows that cost more than the whole
    budget are never drawn, and the last ones drawn are left out where they exceed it, so that the
    probabilities, and with them the weights, hold only about.

    Args:
        emb: the pool.
        budget: what may be spent, and each row's cost c_i.
        ridge: positive, of the design.
        seed: of the draw; one seed gives the same rows.
        epsilon: the share of the uniform part, above 0 and at most 1.

    Raises:
        ValueError: epsilon outside (0, 1].
    """
    if not 0 < epsilon <= 1:
        raise UserError(f"epsilon must be above 0 and at most 1, got {epsilon}")
    shares = optimal_design(emb, budget, ridge=ridge)
    shares = (1 - epsilon) * shares + epsilon * budget.costs / budget.costs.sum()
    fits = budget.costs <= budget.total
    inclusion = np.zeros(len(emb))
    inclusion[fits] = inclusion_probabilities(
        shares[fits], budget._replace(costs=budget.costs[fits])
    )
    rng = stream(seed, "fisher_random")
    order = rng.permutation(len(emb))
    marks = np.floor(np.cumsum(inclusion[order]).round(9) + rng.random())
    ranking = order[np.diff(marks, prepend=0) > 0]
    ranking = ranking[np.cumsum(budget.costs[ranking]) <= budget.total + 1e-9]
    return Draw(ranking, inclusion.mean() / inclusion[ranking], inclusion)


def optimal_design(
    emb: TokenEmbeddings, budget: Budget, *, ridge: float | int, steps: int = STEPS
) -> Float[np.ndarray, "N"]:
    """Shares v (N,) of the budget B: `log det(ridge I + B sum v_i X_i^T X_i / c_i)` near its best.

    Multiplicative updates `v_i <- v_i tr(X_i V^-1 X_i^T) / c_i`, renormalised (Silvey, Titterington
    & Torsney 1978); each raises the objective. At the optimum no row has more information per cost
    than the average.

    Raises:
        ValueError: embeddings that are all zero.
    """
    owner = np.repeat(np.arange(len(emb)), emb.lengths)
    with computing(emb, ridge / budget.total) as emb:
        v = _multiplicative(
            jnp.asarray(emb.tokens),
            jnp.asarray(owner, jnp.int32),
            jnp.asarray(budget.costs, emb.tokens.dtype),
            jnp.asarray(ridge / budget.total, emb.tokens.dtype),
            steps,
        )
        v = np.asarray(v, np.float64)
    if not np.isfinite(v).all():
        raise UserError(
            "the embeddings have no information: they are all zero, or so small that it is lost to "
            "rounding; embed the rows anew"
        )
    return v / v.sum()


@functools.partial(jax.jit, static_argnames=("steps",))
def _multiplicative(
    tokens_TxD: Float[Array, "T D"],
    owner_T: Int[Array, "T"],
    costs_N: Float[Array, "N"],
    ridge: float | Array,
    steps: int,
) -> Float[Array, "N"]:
    def information_per_cost(v_N):
        weighted_TxD = (v_N / costs_N)[owner_T][:, None] * tokens_TxD
        information_DxD = jnp.matmul(tokens_TxD.T, weighted_TxD, precision=HIGHEST)
        eye_DxD = jnp.eye(tokens_TxD.shape[1], dtype=tokens_TxD.dtype)
        factor = jax.scipy.linalg.cho_factor(information_DxD + ridge * eye_DxD)
        inverse_DxD = jax.scipy.linalg.cho_solve(factor, eye_DxD)
        leverage_T = jnp.sum(
            jnp.matmul(tokens_TxD, inverse_DxD, precision=HIGHEST) * tokens_TxD, axis=1
        )
        return jax.ops.segment_sum(leverage_T, owner_T, len(costs_N)) / costs_N

    def step(_, v_N):
        v_N = v_N * information_per_cost(v_N)
        return v_N / jnp.sum(v_N)

    return jax.lax.fori_loop(0, steps, step, costs_N / jnp.sum(costs_N))


def inclusion_probabilities(
    shares: Float[np.ndarray, "N"], budget: Budget
) -> Float[np.ndarray, "N"]:
    """`min(1, k shares / costs)` with the k that spends the budget: `sum p_i c_i = total`."""
    costs, total = budget.costs, budget.total
    if total >= costs.sum():
        return np.ones(len(costs))
    certain = np.zeros(len(costs), bool)
    while True:
        k = (total - costs[certain].sum()) / shares[~certain].sum()
        more = ~certain & (k * shares >= costs)
        if not more.any():
            return np.where(certain, 1.0, k * shares / costs)
        certain |= more
