import itertools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg  # noqa: F401  its BLAS is the one that is limited
from threadpoolctl import threadpool_info

from fisher_jax.design.linalg import (
    edges,
    log_det_identity_plus,
    one_blas_thread,
    small_log_det_terms,
    update_root,
    whiten,
    whitened_gain,
)
from tests.helpers.references import log_det

pytestmark = [pytest.mark.optimised, pytest.mark.usefixtures("no_rank_promotion")]
TOLERANCE = {"float32": 2e-5, "float64": 1e-11}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 2, 7, 64])
@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e-6, 1e-3, 0.03, 0.3, 1.0, 1e3])
def test_log_det_identity_plus_is_accurate_at_every_scale(dtype, size, scale):
    y = np.random.default_rng(0).standard_normal((size, 80))
    gram = (scale / 80 * (y @ y.T)).astype(dtype)
    expected = np.sum(np.log1p(np.maximum(np.linalg.eigvalsh(gram.astype(np.float64)), 0)))
    with jax.enable_x64(True):
        got = float(log_det_identity_plus(jnp.asarray(gram)))
    assert got == pytest.approx(expected, rel=TOLERANCE[dtype], abs=0)
    assert got >= 0


def test_a_tiny_gain_is_not_lost_to_rounding():
    x = jnp.full((3, 4), 1e-6, jnp.float32)
    assert float(whitened_gain(x)) == pytest.approx(12e-12, rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("m", "d"), [(1, 1), (1, 9), (5, 9), (9, 9), (20, 9)])
def test_update_root_is_the_square_root_of_the_new_inverse(dtype, m, d):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((m, d))
    before = np.eye(d) * 0.5 + 0.1
    root = np.linalg.cholesky(np.linalg.inv(before))
    with jax.enable_x64(True):
        root_after = update_root(jnp.asarray(root, dtype), jnp.asarray(x @ root, dtype))
    assert root_after.dtype == dtype
    square = np.asarray(root_after) @ np.asarray(root_after).T
    expected = np.linalg.inv(before + x.T @ x)
    np.testing.assert_allclose(square, expected, atol=TOLERANCE[dtype] * 10)


@pytest.mark.parametrize(("m", "d"), [(1, 3), (4, 4), (9, 3)])
def test_a_gain_is_the_difference_of_log_determinants(m, d):
    rng = np.random.default_rng(2)
    x, prior = rng.standard_normal((m, d)), rng.standard_normal((5, d))
    v = np.eye(d) + prior.T @ prior
    with jax.enable_x64(True):
        root = jnp.asarray(np.linalg.cholesky(np.linalg.inv(v)))
        got = float(whitened_gain(jnp.asarray(x) @ root))
        padded = np.concatenate([x, np.zeros((3, d))])
        assert float(whitened_gain(jnp.asarray(padded) @ root)) == pytest.approx(got, rel=1e-12)
    assert got == pytest.approx(log_det(v + x.T @ x) - log_det(v), rel=1e-10)


def test_gain_is_monotone_in_rows():
    x = np.random.default_rng(3).standard_normal((6, 4)).astype(np.float32)
    gains = [float(whitened_gain(jnp.asarray(x[:k]))) for k in range(1, 7)]
    assert all(a < b for a, b in itertools.pairwise(gains))


def blas_threads():
    return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}


@pytest.mark.skipif(blas_threads() == {1}, reason="needs two cores")
def test_overlapping_limits_end_with_the_last_one():
    before = blas_threads()
    entered, inside, left, over = (threading.Event() for _ in range(4))

    def first():
        with one_blas_thread():
            entered.set()
            inside.wait(60)
        left.set()
        over.wait(60)

    thread = threading.Thread(target=first)
    thread.start()
    assert entered.wait(60)
    with one_blas_thread():
        inside.set()
        assert left.wait(60)
        within = blas_threads()  # the other's end is not ours
    assert (within, blas_threads()) == ({1}, before)
    over.set()
    thread.join()


@pytest.mark.parametrize("scale", [1e-6, 1e-2, 1.0, 30.0])
@pytest.mark.parametrize("size", [1, 2, 7, 16])
def test_many_small_log_determinants_are_those_of_each(size, scale):
    rows = np.random.default_rng(size).standard_normal((5, size, 9)) * scale
    gram_BxMxM = np.asarray(rows @ rows.transpose(0, 2, 1), np.float32)
    gram_BxMxM[3] = 0
    terms_MxB = small_log_det_terms(jnp.moveaxis(jnp.asarray(gram_BxMxM), 0, 2))
    assert terms_MxB.shape == (size, 5) and np.all(terms_MxB >= 0)
    expected = np.linalg.slogdet(np.eye(size) + rows @ rows.transpose(0, 2, 1))[1]
    expected[3] = 0
    np.testing.assert_allclose(np.sum(terms_MxB, axis=0), expected, rtol=2e-5, atol=1e-12)


@pytest.mark.parametrize("blocks", [1, 2, 3, 5])
def test_updates_keep_a_root_by_blocks(blocks):
    rng = np.random.default_rng(blocks)
    with jax.enable_x64(True):
        root_DxD, v_DxD = jnp.eye(11) / np.sqrt(0.7), 0.7 * np.eye(11)
        for _ in range(6):
            x_MxD = rng.standard_normal((3, 11))
            y_MxD = whiten(jnp.asarray(x_MxD), root_DxD, blocks)
            np.testing.assert_allclose(y_MxD, x_MxD @ root_DxD, atol=1e-12)
            root_DxD, v_DxD = update_root(root_DxD, y_MxD, blocks), v_DxD + x_MxD.T @ x_MxD
        np.testing.assert_allclose(root_DxD @ root_DxD.T @ v_DxD, np.eye(11), atol=1e-12)
    edge = edges(11, blocks)
    for begin, end in itertools.pairwise(edge):
        assert not np.any(root_DxD[end:, begin:end])
