"""The softmax (multinomial logit) model of a last layer: sample, fit, exact information, errors.

`p(y = l | x) = exp(theta_l . x) / sum_k exp(theta_k . x)` with parameters Theta (D, L), FisherSFT
(arXiv 2505.14826), Section 2. Everything here is for ONE data set and meant to be vmapped; tokens
of weight zero are padding.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from fisher_jax.design import HIGHEST

AnyArray = Array | np.ndarray
FORCING = 0.1  # relative accuracy of a Newton direction


class Fit(NamedTuple):
    """A maximum of the penalised likelihood: Theta and how it was reached.

    Attributes:
        theta: (D, L).
        gradient: largest absolute entry of the gradient, divided by the sum of the weights.
        steps: Newton steps taken.
    """

    theta: Float[Array, "D L"]
    gradient: Float[Array, ""]
    steps: Int[Array, ""]


def sample(
    key: Array, theta_DxL: Float[AnyArray, "D L"], x_TxD: Float[AnyArray, "T D"]
) -> Int[Array, "T"]:
    """One label a token, drawn from the model."""
    return jax.random.categorical(key, jnp.matmul(x_TxD, theta_DxL, precision=HIGHEST))


def log_likelihood(
    theta_DxL: Float[AnyArray, "D L"],
    x_TxD: Float[AnyArray, "T D"],
    labels_T: Int[AnyArray, "T"],
    weights_T: Float[AnyArray, "T"] | None = None,
) -> Float[Array, ""]:
    """`sum_t w_t log p(y_t | x_t)` in nats; weights are 1 where they are not given."""
    logits_TxL = jnp.matmul(x_TxD, theta_DxL, precision=HIGHEST)
    of_label_T = jnp.sum(jnp.where(_is_label(labels_T, logits_TxL), logits_TxL, 0), axis=1)
    log_p_T = of_label_T - jax.nn.logsumexp(logits_TxL, axis=1)
    return jnp.sum(log_p_T if weights_T is None else weights_T * log_p_T)


def fit(
    x_TxD: Float[AnyArray, "T D"],
    labels_T: Int[AnyArray, "T"],
    weights_T: Float[AnyArray, "T"],
    n_labels: int,
    ridge: float | int | Array,
    tol: float = 1e-5,
    max_steps: int = 50,
) -> Fit:
    """Theta that minimises `-sum_t w_t log p(y_t | x_t) + ridge/2 |Theta|^2`, from Theta = 0.

    Newton's method: the linear systems by conjugate gradients (`jax.scipy`) with products of the
    Hessian alone, never the D L x D L matrix, preconditioned by its L diagonal blocks
    `ridge I + sum_t w_t p_tl (1 - p_tl) x_t x_t^T`; steps by optax's backtracking. Every step stays
    among matrices whose rows sum to zero, where the optimum is.

    Args:
        x_TxD: embeddings of the tokens.
        labels_T: their labels, 0 to L - 1.
        weights_T: of the tokens, at least 0; 0 is padding.
        n_labels: L.
        ridge: positive; the optimum is then unique.
        tol: done when no entry of the gradient exceeds `tol sum_t w_t`.
        max_steps: Newton steps at most.
    """
    limit = tol * jnp.sum(weights_T)
    theta = jnp.zeros((x_TxD.shape[1], n_labels), x_TxD.dtype)
    eye = jnp.eye(x_TxD.shape[1], dtype=x_TxD.dtype)
    squares_TxDD = (x_TxD[:, :, None] * x_TxD[:, None, :]).reshape(len(x_TxD), -1)
    slack = 8 * float(jnp.finfo(x_TxD.dtype).eps)  # rounding of the objective itself
    search = optax.chain(
        optax.scale(1.0),
        optax.scale_by_backtracking_linesearch(
            max_backtracking_steps=20, slope_rtol=1e-3, decrease_factor=0.5, rtol=slack
        ),
    )

    def matmul(a, b):
        return jnp.matmul(a, b, precision=HIGHEST)

    def centred(theta):
        return theta - jnp.mean(theta, axis=1, keepdims=True)

    def objective(theta):
        return (
            ridge / 2 * jnp.sum(theta**2) - log_likelihood(theta, x_TxD, labels_T, weights_T)
        ) / jnp.sum(weights_T)

    def probabilities_and_gradient(theta):
        p_TxL = jax.nn.softmax(matmul(x_TxD, theta), axis=1)
        excess_TxL = weights_T[:, None] * (p_TxL - _is_label(labels_T, p_TxL))
        return p_TxL, matmul(x_TxD.T, excess_TxL) + ridge * theta

    def step(carry):
        theta, p_TxL, gradient, state, steps = carry

        def hessian_times(v):
            u_TxL = matmul(x_TxD, v)
            u_TxL = p_TxL * (u_TxL - jnp.sum(p_TxL * u_TxL, axis=1, keepdims=True))
            return matmul(x_TxD.T, weights_T[:, None] * u_TxL) + ridge * v

        curvature_TxL = weights_T[:, None] * p_TxL * (1 - p_TxL)
        blocks_LxDxD = matmul(curvature_TxL.T, squares_TxDD).reshape(n_labels, *eye.shape)
        factors_LxDxD = jnp.linalg.cholesky(blocks_LxDxD + ridge * eye)
        inverses_LxDxD = jax.vmap(lambda c: jax.scipy.linalg.cho_solve((c, True), eye))(
            factors_LxDxD
        )
        direction, _ = jax.scipy.sparse.linalg.cg(
            hessian_times,
            -gradient,
            M=lambda r: centred(jnp.einsum("lde,el->dl", inverses_LxDxD, r, precision=HIGHEST)),
            tol=FORCING,
            maxiter=100,
        )
        updates, state = search.update(
            direction,
            state,
            theta,
            value=objective(theta),
            grad=gradient / jnp.sum(weights_T),
            value_fn=objective,
        )
        theta += updates
        return theta, *probabilities_and_gradient(theta), state, steps + 1

    def goes_on(carry):
        return (jnp.max(jnp.abs(carry[2])) > limit) & (carry[4] < max_steps)

    begin = (
        theta,
        *probabilities_and_gradient(theta),
        search.init(theta),
        jnp.zeros((), jnp.int32),
    )
    theta, _, gradient, _, steps = jax.lax.while_loop(goes_on, step, begin)
    return Fit(theta, jnp.max(jnp.abs(gradient)) / jnp.sum(weights_T), steps)


def information(
    theta_DxL: Float[AnyArray, "D L"],
    x_TxD: Float[AnyArray, "T D"],
    weights_T: Float[AnyArray, "T"] | None = None,
    *,
    reduced: bool = False,
) -> Float[Array, "DL DL"]:
    """Exact information `H = sum_t w_t (diag(p_t) - p_t p_t^T) kron x_t x_t^T`, (D L, D L).

    The covariance of the labels has the null vector 1, so log det H is -inf. `reduced` gives the
    (D (L - 1), D (L - 1)) matrix in the orthogonal complement of 1 instead, `Q^T (...) Q` with the
    Q of `complement`, whose log-determinant is the one to look at.

    Args:
        theta_DxL: the parameters at which p is taken.
        x_TxD: embeddings of the tokens.
        weights_T: of the tokens; ones where they are not given.
        reduced: without the null direction.
    """
    p_TxL = jax.nn.softmax(jnp.matmul(x_TxD, theta_DxL, precision=HIGHEST), axis=1)
    basis_LxK = (
        complement(p_TxL.shape[1], p_TxL.dtype)
        if reduced
        else jnp.eye(p_TxL.shape[1], dtype=p_TxL.dtype)
    )
    projected_TxK = jnp.matmul(p_TxL, basis_LxK, precision=HIGHEST)
    diagonal_TxKxK = jnp.einsum("lk,tl,lm->tkm", basis_LxK, p_TxL, basis_LxK, precision=HIGHEST)
    covariance_TxKxK = diagonal_TxKxK - projected_TxK[:, :, None] * projected_TxK[:, None, :]
    if weights_T is not None:
        covariance_TxKxK *= weights_T[:, None, None]
    blocks = jnp.einsum("tkm,td,te->kdme", covariance_TxKxK, x_TxD, x_TxD, precision=HIGHEST)
    size = blocks.shape[0] * blocks.shape[1]
    return blocks.reshape(size, size)


def information_rows(
    theta_DxL: Float[np.ndarray, "D L"], x_TxD: Float[np.ndarray, "T D"]
) -> Float[np.ndarray, "TL DK"]:
    """Rows R of shape (T L, D (L - 1)) with `R^T R` = the reduced `information`, on the host.

    `diag(p) - p p^T = F F^T`, `F = diag(sqrt p) (I - sqrt p sqrt p^T)`; token t owns the L rows
    `(F_t^T Q) kron x_t`. Selecting on them is greedy on the exact information.
    """
    logits = x_TxD @ theta_DxL
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    root = np.sqrt(p / p.sum(axis=1, keepdims=True))
    basis = _helmert(root.shape[1])
    scaled = root[:, :, None] * basis
    rows = scaled - root[:, :, None] * np.einsum("tl,tlk->tk", root, scaled)[:, None, :]
    lifted = rows[:, :, :, None] * x_TxD[:, None, None, :]
    return lifted.reshape(-1, basis.shape[1] * x_TxD.shape[1])


def complement(n_labels: int, dtype: jax.typing.DTypeLike) -> Float[Array, "L K"]:
    """Q (L, L - 1), an orthonormal basis of the vectors that sum to zero (Helmert's)."""
    return jnp.asarray(_helmert(n_labels), dtype)


def _helmert(n_labels: int) -> Float[np.ndarray, "L K"]:
    k = np.arange(1, n_labels)
    rows = np.tril(np.ones((n_labels - 1, n_labels)))
    rows[k - 1, k] = -k
    return (rows / np.sqrt(k * (k + 1))[:, None]).T


def prediction_errors(
    estimate_DxL: Float[AnyArray, "D L"],
    theta_DxL: Float[AnyArray, "D L"],
    x_TxD: Float[AnyArray, "T D"],
) -> tuple[Float[Array, "T"], Float[Array, "T"]]:
    """How far an estimate's predictions are off, per token.

    Returns:
        The logit error `|c((Theta' - Theta)^T x)|`, c(v) = v - mean(v) (a shift of all logits
        changes nothing), and the total variation `1/2 sum_l |p'_l - p_l|`, in [0, 1].
    """
    off_TxL = jnp.matmul(x_TxD, estimate_DxL - theta_DxL, precision=HIGHEST)
    off_TxL -= jnp.mean(off_TxL, axis=1, keepdims=True)
    p_TxL, q_TxL = (
        jax.nn.softmax(jnp.matmul(x_TxD, t, precision=HIGHEST), axis=1)
        for t in (estimate_DxL, theta_DxL)
    )
    return jnp.linalg.norm(off_TxL, axis=1), jnp.sum(jnp.abs(p_TxL - q_TxL), axis=1) / 2


def _is_label(labels_T: Int[AnyArray, "T"], like_TxL: Float[Array, "T L"]) -> Array:
    return labels_T[:, None] == jnp.arange(like_TxL.shape[1])
