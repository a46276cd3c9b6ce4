"""A pool that is read as it is needed gives the selection of the pool in memory."""

import numpy as np
import pytest

import fisher_jax as fj
from fisher_jax.design import selection
from tests.helpers.references import random_pool
from tests.helpers.sources import Reader

POOLS = {
    "a few lengths": lambda: random_pool(0, 150, [1, 3, 8], 6),
    "longer than D": lambda: random_pool(1, 40, [2, 5, 9], 4),
    "copies": lambda: random_pool(2, 20, [1, 3], 6) * 3,
    "float64": lambda: [x.astype(np.float64) for x in random_pool(3, 60, [1, 4], 6)],
}
BUDGETS = [{"n_samples": 20}, {"token_budget": 60}]


@pytest.mark.parametrize("budget", BUDGETS, ids=["examples", "tokens"])
@pytest.mark.parametrize("kind", POOLS)
def test_the_same_selection_as_in_memory(kind, budget, small_buckets):
    emb = fj.TokenEmbeddings.from_list(POOLS[kind]())
    expected = fj.select(emb, **budget)
    streamed = fj.select(Reader(emb), **budget)
    np.testing.assert_array_equal(streamed.ranking, expected.ranking)
    np.testing.assert_allclose(streamed.gains, expected.gains, rtol=1e-4)


def test_few_examples_are_read_again(small_buckets):
    emb = fj.TokenEmbeddings.from_list(random_pool(0, 400, [1, 3, 8], 6))
    reader = Reader(emb)
    fj.select(reader, n_samples=20)
    assert reader.n_read.min() == 1  # the first pass
    assert reader.n_read.sum() < 10 * len(emb)  # all at each of 20 choices would be twice that


def test_extreme_ridges_are_computed_in_float64():
    emb = fj.TokenEmbeddings.from_list(random_pool(0, 40, [1, 3], 6))
    expected = fj.select(emb, n_samples=10, ridge=1e-6)
    streamed = fj.select(Reader(emb), n_samples=10, ridge=1e-6)
    assert streamed.gains.dtype == np.float64
    np.testing.assert_array_equal(streamed.ranking, expected.ranking)


def test_the_root_is_computed_anew_now_and_then(monkeypatch):
    emb = fj.TokenEmbeddings.from_list(random_pool(0, 40, [1, 3], 6))
    expected = fj.select(emb, n_samples=20)
    calls, fresh_root = [], selection.fresh_root
    monkeypatch.setattr(selection, "REFRESH", 7)
    monkeypatch.setattr(
        selection, "fresh_root", lambda *a: calls.append(len(a[1])) or fresh_root(*a)
    )
    streamed = fj.select(Reader(emb), n_samples=20)
    assert calls == [7, 14]
    np.testing.assert_array_equal(streamed.ranking, expected.ranking)


def test_what_is_for_pools_in_memory_is_refused():
    emb = fj.TokenEmbeddings.from_list(random_pool(0, 10, [1], 3))
    with pytest.raises(ValueError, match="in_memory"):
        fj.select(Reader(emb), n_samples=2, method="naive")


def test_rows_that_are_there_already_count(small_buckets):
    emb = fj.TokenEmbeddings.from_list(random_pool(0, 60, [1, 3, 8], 6))
    given = {"n_samples": 8, "initial": emb, "initial_subset": [3, 5]}
    np.testing.assert_array_equal(
        fj.select(Reader(emb), **given).ranking, fj.select(emb, **given).ranking
    )
