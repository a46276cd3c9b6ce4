"""Stochastic greedy: how it draws, what it keeps of the exact f, and its limits."""

import itertools

import numpy as np
import pytest

import fisher_jax as fj
from fisher_jax.design import approximate
from tests.helpers.references import random_pool
from tests.helpers.sources import Reader

stochastic = fj.SELECTORS["fisher_stochastic"]


@pytest.fixture(scope="module")
def pool():
    """Rows of one length, so that all are evaluated by one program."""
    return fj.TokenEmbeddings.from_list(random_pool(0, 200, [3], 6))


def test_most_of_the_exact_information_is_kept(pool):
    exact = fj.select(pool, n_samples=20).log_det
    found = [stochastic(pool, n_samples=20, seed=seed) for seed in (0, 1, 2, 0)]
    assert 0.9 < np.mean([selection.log_det for selection in found]) / exact <= 1 + 1e-6
    rankings = [selection.ranking.tolist() for selection in found]
    assert rankings[0] == rankings[3] and rankings[0] != rankings[1] != rankings[2]
    assert all(len(set(ranking)) == 20 for ranking in rankings)
    again = fj.evaluate(pool, found[1].ranking)
    np.testing.assert_allclose(found[1].gains, again.gains, rtol=1e-4)


def test_the_guarantee_holds_beside_the_best_set_of_all(pool):
    few = random_pool(3, 9, [1, 2], 4)

    def f(rows):
        return np.linalg.slogdet(np.eye(4) + sum(few[i].T @ few[i] for i in rows))[1]

    best = max(f(rows) for rows in itertools.combinations(range(9), 3))
    emb = fj.TokenEmbeddings.from_list(few)
    found = [stochastic(emb, n_samples=3, seed=seed).log_det for seed in range(8)]
    assert (1 - 1 / np.e - 0.1) * best <= np.mean(found) <= best * (1 + 1e-6)


def test_a_sample_of_all_rows_is_exact(pool):
    everything = stochastic(pool, n_samples=10, epsilon=1e-9)
    np.testing.assert_array_equal(everything.ranking, fj.select(pool, n_samples=10).ranking)


def test_it_looks_at_a_sample_and_reads_no_more(pool):
    reader = Reader(pool)
    streamed = stochastic(reader, n_samples=20)
    sampled = 20 * int(np.ceil(200 / 20 * np.log(10)))
    assert reader.n_read.sum() == sampled + 20  # and each choice once more
    np.testing.assert_array_equal(streamed.ranking, stochastic(pool, n_samples=20).ranking)
    assert pool.lengths[stochastic(pool, token_budget=31).ranking].sum() == 30


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_a_share_out_of_range_is_refused(pool, epsilon):
    with pytest.raises(ValueError, match="epsilon"):
        stochastic(pool, n_samples=2, epsilon=epsilon)


def test_a_root_that_is_made_anew_changes_nothing_but_rounding(pool, monkeypatch):
    plain, made = stochastic(pool, n_samples=20), []
    monkeypatch.setattr(approximate, "REFRESH", 7)
    real = approximate.fresh_root
    monkeypatch.setattr(approximate, "fresh_root", lambda *args: made.append(1) or real(*args))
    again = stochastic(pool, n_samples=20)
    assert len(made) == 2 and again.ranking.tolist() == plain.ranking.tolist()
    np.testing.assert_allclose(again.gains, plain.gains, rtol=1e-4)
