"""A random projection keeps norms, and log det as far as its bound says."""

import numpy as np
import pytest

import fisher_jax as fj
from fisher_jax.design.projection import projected, projection


def log_det(x):
    return np.linalg.slogdet(np.eye(len(x)) + x @ x.T)[1]


def test_norms_and_log_det_stay_within_their_bounds():
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((40, 400)).astype(np.float32) * (1 + np.arange(400)) ** -0.3
    emb = fj.TokenEmbeddings(tokens, np.arange(0, 41, 2))
    t, to = 0.2, 300
    eta = np.sqrt(2 / to) + t  # of a row of 2 tokens; holds but for 2 exp(-300 * 0.04 / 2) = 0.5%
    for seed in range(3):
        narrow = projected(emb, projection(400, to, seed))
        ratio = narrow.mean_squared_norm() / emb.mean_squared_norm()
        assert abs(ratio - 1) < 5 * np.sqrt(2 / to / 40)  # of independent tokens
        for i in range(len(emb)):
            error = abs(log_det(narrow[i].astype(float)) - log_det(emb[i].astype(float)))
            assert error <= 4 * np.log(1 / (1 - eta))
    wide = fj.TokenEmbeddings(tokens.astype(np.float64), emb.offsets)
    assert projected(wide, projection(400, to, 0)).dtype == np.float64


def test_a_seed_gives_the_same_projection():
    one = projection(6, 4, 1)
    np.testing.assert_array_equal(projection(6, 4, 1), one)
    assert not np.isclose(projection(6, 4, 2), one).any()
    for to in (0, 6):
        with pytest.raises(ValueError, match=f"from 1 to 5, below the width 6, got {to}"):
            projection(6, to, 0)
