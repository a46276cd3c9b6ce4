import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression

from fisher_jax.design.softmax_model import (
    complement,
    fit,
    information,
    information_rows,
    log_likelihood,
    prediction_errors,
    sample,
)


def problem(seed=0, n=400, dim=5, n_labels=6, dtype=np.float64):
    rng = np.random.default_rng(seed)
    theta = rng.standard_normal((dim, n_labels)).astype(dtype)
    x = rng.standard_normal((n, dim)).astype(dtype)
    logits = x @ theta
    labels = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
    return theta, x, labels


def test_sample_has_the_models_frequencies():
    theta, x, _ = problem(n=1, dtype=np.float32)
    labels = sample(jax.random.key(0), theta, np.repeat(x, 20_000, axis=0))
    frequencies = np.bincount(labels, minlength=6) / 20_000
    np.testing.assert_allclose(frequencies, softmax(x @ theta)[0], atol=0.012)


def test_log_likelihood_and_weights():
    theta, x, labels = problem()
    weights = np.random.default_rng(1).uniform(size=len(x))
    of_token = log_softmax(x @ theta, axis=1)[np.arange(len(x)), labels]
    with jax.enable_x64(True):
        np.testing.assert_allclose(log_likelihood(theta, x, labels), of_token.sum(), rtol=1e-12)
        got = log_likelihood(theta, x, labels, weights)
    np.testing.assert_allclose(got, weights @ of_token, rtol=1e-12)


@pytest.mark.parametrize("ridge", [1e-2, 1.0, 30.0])
def test_fit_is_scikit_learns(ridge):
    _, x, labels = problem()
    weights = np.random.default_rng(1).integers(0, 3, len(x)).astype(np.float64)
    theirs = LogisticRegression(
        C=1 / ridge, fit_intercept=False, solver="newton-cholesky", tol=1e-10, max_iter=1000
    ).fit(x, labels, weights)
    with jax.enable_x64(True):
        ours = fit(x, labels, weights, 6, ridge, tol=1e-10)
        assert ours.gradient < 1e-10
    centred = theirs.coef_.T - theirs.coef_.T.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(ours.theta, centred, atol=1e-4)


def test_fit_in_float32_vmapped_and_padded():
    problems = [problem(seed, dtype=np.float32) for seed in range(3)]
    x = np.stack([np.concatenate([p[1], 1e3 * np.ones((50, 5), np.float32)]) for p in problems])
    labels = np.stack([np.concatenate([p[2], np.zeros(50, int)]) for p in problems])
    weights = np.concatenate([np.ones(400), np.zeros(50)]).astype(np.float32)
    together = jax.jit(jax.vmap(lambda x, y: fit(x, y, weights, 6, 0.1)))(x, labels)
    assert float(together.gradient.max()) < 1e-5
    for i, (_, x_i, labels_i) in enumerate(problems):
        with jax.enable_x64(True):
            alone = fit(x_i.astype(np.float64), labels_i, np.ones(400), 6, 0.1, tol=1e-10)
        np.testing.assert_allclose(together.theta[i], alone.theta, atol=2e-3)


def test_fit_of_separable_labels_stays_finite():
    x = np.eye(3, dtype=np.float32)
    result = fit(x, np.arange(3), np.ones(3, np.float32), 3, 1e-3)
    assert np.isfinite(result.theta).all() and result.gradient < 1e-5


@pytest.mark.parametrize("weighted", [False, True])
def test_information_is_the_hessian(weighted):
    theta, x, labels = problem(n=30, dim=3, n_labels=4)
    weights = np.random.default_rng(1).uniform(size=30) if weighted else np.ones(30)
    with jax.enable_x64(True):
        hessian = jax.hessian(lambda t: -log_likelihood(t.T, x, labels, weights))(theta.T)
        hessian = hessian.reshape(12, 12)
        h = information(theta, x, weights if weighted else None)
        reduced = information(theta, x, weights, reduced=True)
        basis = np.kron(complement(4, np.float64), np.eye(3))
        np.testing.assert_allclose(h, hessian, atol=1e-10)
        np.testing.assert_allclose(reduced, basis.T @ hessian @ basis, atol=1e-10)
    assert np.linalg.eigvalsh(h)[0] < 1e-10 < 1e-3 < np.linalg.eigvalsh(reduced)[0]


def test_complement_is_orthonormal_and_sums_to_zero():
    q = np.asarray(complement(7, jnp.float32))
    np.testing.assert_allclose(q.T @ q, np.eye(6), atol=1e-6)
    np.testing.assert_allclose(q.sum(axis=0), 0, atol=1e-6)


def test_information_rows_square_to_the_information():
    theta, x, _ = problem(n=20, dim=3, n_labels=4)
    rows = information_rows(theta, x)
    assert rows.shape == (20 * 4, 3 * 3)
    with jax.enable_x64(True):
        h = information(theta, x, reduced=True)
    np.testing.assert_allclose(rows.T @ rows, h, rtol=1e-10, atol=1e-12)


def test_prediction_errors_ignore_a_shift_of_all_logits():
    theta, x, _ = problem()
    shifted = theta + np.arange(5)[:, None]
    off = theta + np.random.default_rng(3).standard_normal(theta.shape)
    with jax.enable_x64(True):
        assert max(map(np.max, prediction_errors(shifted, theta, x))) < 1e-12
        logit, variation = prediction_errors(off, theta, x)
    difference = x @ (off - theta)
    difference -= difference.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(logit, np.linalg.norm(difference, axis=1), rtol=1e-10)
    apart = abs(softmax(x @ off, axis=1) - softmax(x @ theta, axis=1)).sum(axis=1) / 2
    np.testing.assert_allclose(variation, apart, rtol=1e-10)
