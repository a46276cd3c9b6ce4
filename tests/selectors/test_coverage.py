import numpy as np
import pytest
from scipy.sparse import csr_array, csr_matrix
from scipy.special import softmax

import fisher_jax as fj
from fisher_jax.design.budget import Budget
from fisher_jax.selectors import SELECTORS
from fisher_jax.util.streams import stream
from tests.helpers.references import N, exact_kernel_density


def test_density_sampling_prefers_sparse_regions():
    rng = np.random.default_rng(0)
    dense, sparse = 0.01 * rng.standard_normal((90, 1, 3)), 5 * rng.standard_normal((10, 1, 3))
    emb = fj.TokenEmbeddings.from_list([*dense, *sparse])
    picks = [
        SELECTORS["density"].rank(emb, Budget.of(emb, n_samples=10), seed=s, n_hashes=100)
        for s in range(20)
    ]
    assert np.mean(np.concatenate(picks) >= 90) > 0.4  # uniform: 0.1


def test_density_sampling_draws_by_inverse_density():
    emb = fj.TokenEmbeddings.from_list(np.array([0.0, 0.1, 0.2, 3, 9])[:, None, None])
    draws, expected = [], []
    for seed in range(600):
        weights = 1 / exact_kernel_density(emb.tokens, seed)
        expected.append(weights / weights.sum())
        budget = Budget.of(emb, n_samples=1)
        draws.append(SELECTORS["density"].rank(emb, budget, seed=seed, n_hashes=300)[0])
    frequency = np.bincount(draws, minlength=5) / 600
    np.testing.assert_allclose(frequency, np.mean(expected, axis=0), atol=0.06)


def test_sensitivity_draws_by_loss_and_squared_distance():
    points = np.array([[0.0], [0.1], [1.0], [2.0]])
    emb = fj.TokenEmbeddings.from_list(points[:, None])
    squared = (points[:, 0] - points.mean()) ** 2
    s = 1 + squared / squared.mean()  # the loss of the row nearest to the centre is 1
    first = [
        SELECTORS["sensitivity"].rank(
            emb,
            Budget.of(emb, n_samples=1),
            seed=k,
            losses=np.array([9.0, 9.0, 1.0, 9.0]),
            n_clusters=1,
        )[0]
        for k in range(500)
    ]
    np.testing.assert_allclose(np.bincount(first) / 500, s / s.sum(), atol=0.04)


def test_prototypes_go_by_distance_to_the_centre(emb, examples):
    pooled = np.stack([x.mean(axis=0) for x in examples])
    order = np.argsort(np.linalg.norm(pooled - pooled.mean(axis=0), axis=1))
    easy = SELECTORS["prototypes_easy"](emb, n_samples=N, n_clusters=1).ranking
    hard = SELECTORS["prototypes_hard"](emb, n_samples=N, n_clusters=1).ranking
    np.testing.assert_array_equal(easy, order)
    np.testing.assert_array_equal(hard, order[::-1])


def test_several_clusters_have_centres_of_their_own():
    """Two clusters, of centres 0 and 100 by their means."""
    points = np.array([-3.0, -1, 0, 4, 98, 99, 103])[:, None]
    emb = fj.TokenEmbeddings.from_list(points[:, None])
    away = np.abs(points[:, 0] - np.repeat([0, 100], [4, 3]))
    hard = SELECTORS["prototypes_hard"](emb, n_samples=7, n_clusters=2).ranking
    easy = SELECTORS["prototypes_easy"](emb, n_samples=7, n_clusters=2).ranking
    np.testing.assert_array_equal(away[hard], np.sort(away)[::-1])
    np.testing.assert_array_equal(away[easy], np.sort(away))
    losses = np.array([9.0, 9, 1, 9, 9, 2, 9])  # rows 2 and 5 are the nearest to their centres
    of_centre = np.repeat([1.0, 2], [4, 3])
    s = of_centre + of_centre.mean() * away**2 / np.mean(away**2)
    budget = Budget.of(emb, n_samples=1)
    draws = [
        SELECTORS["sensitivity"].rank(emb, budget, seed=k, losses=losses, n_clusters=2)[0]
        for k in range(250)
    ]
    np.testing.assert_allclose(np.bincount(draws, minlength=7) / 250, s / s.sum(), atol=0.06)


def test_k_center_takes_the_farthest(emb, examples):
    got = SELECTORS["k_center"](emb, n_samples=10, seed=0).ranking
    points = np.stack([x.mean(axis=0) for x in examples])
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    for k in range(1, 10):
        assert got[k] == np.argmax(apart[:, got[:k]].min(axis=1))


@pytest.mark.parametrize(
    ("k", "sparse", "pooling"),
    [
        (None, None, "mean"),
        (3, csr_array, "mean"),
        (3, csr_matrix, "last"),
        (None, None, "position"),
    ],
)
def test_badge_is_k_means_plus_plus_on_the_gradients(emb, theta, k, sparse, pooling):
    p = softmax(emb.tokens @ theta, axis=1)
    if k is not None:  # the k likeliest labels, as a sparse array
        p[p < -np.sort(-p, axis=1)[:, k - 1 : k]] = 0
        assert (np.count_nonzero(p, axis=1) == k).all() and p.shape[1] > k
    given = p.copy() if k is None else sparse(p)
    p[np.arange(len(p)), p.argmax(axis=1)] -= 1
    of_token = (p[:, :, None] * emb.tokens[:, None, :]).reshape(len(p), -1)
    g = fj.TokenEmbeddings(of_token, emb.offsets).pooled(pooling).astype(np.float64)
    rng, chosen = stream(7, "badge"), [int(np.argmax(np.linalg.norm(g, axis=1)))]
    for _ in range(9):
        squared = ((g[:, None] - g[chosen]) ** 2).sum(axis=2).min(axis=1)
        squared[chosen] = 0
        chosen.append(int(rng.choice(N, p=squared / squared.sum())))
    got = SELECTORS["badge"](
        emb, n_samples=10, seed=7, probabilities=given, pooling=pooling
    ).ranking
    np.testing.assert_array_equal(got, chosen)


def test_badge_goes_on_where_all_gradients_are_equal():
    emb = fj.TokenEmbeddings.from_list([np.ones((2, 3), np.float32)] * 4)
    for p in (np.full((8, 2), 0.5), np.ones((8, 2), int)):
        ranking = SELECTORS["badge"](emb, n_samples=4, probabilities=p).ranking
        assert sorted(ranking.tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("sparse", [np.asarray, csr_array])
def test_badge_refuses_probabilities_that_are_not_finite(emb, sparse):
    p = np.full((len(emb.tokens), 3), 1 / 3)
    p[5, 1] = np.nan
    with pytest.raises(ValueError, match="probabilities must be finite"):
        SELECTORS["badge"](emb, n_samples=4, probabilities=sparse(p))
