import re

import jax.numpy as jnp
import numpy as np
import pytest

import fisher_jax as fj
from fisher_jax.design.budget import Budget, budget_in_examples, take
from fisher_jax.util.checks import check_numbers
from tests.helpers.references import cost_benefit, random_pool

pytestmark = pytest.mark.usefixtures("no_rank_promotion", "small_buckets")


@pytest.mark.parametrize("budget", [7, 40, 200])
def test_token_budget_is_greedy_by_gain_per_cost_and_never_exceeded(budget):
    examples = random_pool(5, 40, [1, 2, 5, 9, 14], 6, np.float64)
    emb = fj.TokenEmbeddings.from_list(examples)
    expected, gains = cost_benefit(examples, budget, emb.lengths, 1.0)
    got = fj.select(emb, token_budget=budget)
    np.testing.assert_array_equal(got.ranking, expected)
    np.testing.assert_allclose(got.gains, gains, rtol=1e-9)
    assert emb.lengths[got.ranking].sum() <= budget


def test_costs_may_be_fractions_and_are_added_exactly():
    examples = random_pool(6, 30, [2, 3], 5, np.float64)
    emb = fj.TokenEmbeddings.from_list(examples)
    costs = np.random.default_rng(0).uniform(0.1, 2.0, 30)
    expected, _ = cost_benefit(examples, 6.5, costs, 1.0)
    got = fj.select(emb, token_budget=6.5, costs=costs)
    np.testing.assert_array_equal(got.ranking, expected)
    assert costs[got.ranking].sum() <= 6.5
    everything = fj.select(emb, token_budget=float(np.sum(costs)) + 1e-6, costs=costs)
    assert len(everything.ranking) == 30


@pytest.mark.parametrize(
    ("fraction", "n", "k"),
    [(0.1, 25, 3), (0.1, 24, 2), (0.001, 10, 1), (0.5, 5, 3), (1.0, 7, 7), (0.3, 10, 3)],
)
def test_fraction_is_rounded_half_up_and_at_least_one(fraction, n, k):
    assert budget_in_examples(n, None, fraction) == k


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of"),
        ({"n_samples": 2, "fraction": 0.5}, "n_samples=2 and fraction=0.5"),
        ({"n_samples": 2, "token_budget": 5}, "token_budget=5"),
        ({"n_samples": 0}, "n_samples must be above 0, got 0"),
        ({"n_samples": -1}, "n_samples must be above 0"),
        ({"n_samples": 5}, "from 1 to 4"),
        ({"fraction": 0.0}, "above 0"),
        ({"fraction": 1.1}, "at most 1"),
        ({"fraction": float("nan")}, "fraction must be a number, got nan"),
        ({"token_budget": 1}, "buys nothing: the cheapest example costs 2"),
        ({"token_budget": float("nan")}, "token_budget must be a number, got nan"),
        ({"token_budget": 9, "costs": [1.0]}, "one number an example"),
        ({"token_budget": 9, "costs": [1.0, 0.0, 1.0, 1.0]}, "example 1 has 0.0"),
        ({"n_samples": 1, "costs": [1.0] * 4}, "costs goes with token_budget"),
        ({"n_samples": 1, "ridge": 0.0}, "ridge"),
        ({"n_samples": 1, "ridge": float("nan")}, "ridge"),
        ({"n_samples": 1, "ridge": 1e-15}, "ridge must be at least 1e-14 of the mean squared norm"),
    ],
)
def test_bad_arguments_say_what_is_needed(arguments, message):
    emb = fj.TokenEmbeddings.from_list(random_pool(0, 4, [2], 3))
    with pytest.raises(ValueError, match=message):
        fj.select(emb, **arguments)


@pytest.mark.parametrize("value", ["0.5", [3], np.arange(2), float("nan")])
def test_what_is_no_number_is_named(value):
    check_numbers(n_samples=np.int64(3), fraction=None, ridge=np.float32(1))
    with pytest.raises(
        ValueError, match=f"fraction must be a number, got {re.escape(repr(value))}"
    ):
        check_numbers(n_samples=3, fraction=value)


def test_an_infinite_budget_is_the_whole_pool():
    emb, seen = fj.TokenEmbeddings.from_list(random_pool(0, 4, [2], 3)), []
    ranking = fj.select(emb, token_budget=np.inf, on_progress=seen.append).ranking
    assert sorted(ranking.tolist()) == [0, 1, 2, 3] and seen[-1] == 8
    costs = [0.3, 0.2, 0.1]
    assert np.sum(costs) < np.cumsum(costs[::-1])[-1]  # by rounding
    thirds = Budget.of(
        fj.TokenEmbeddings.from_list(random_pool(0, 3, [2], 3)), token_budget=np.inf, costs=costs
    )
    assert thirds.most_examples == 3 == len(take(thirds, np.arange(2, -1, -1)))


@pytest.mark.parametrize("one", [np.array, jnp.asarray])
def test_an_array_of_one_number_is_a_number(one):
    check_numbers(n_samples=one(3), fraction=one(0.5))
    for wrong in (one([3]), one(True), one(np.nan)):
        with pytest.raises(ValueError, match="n_samples must be a number"):
            check_numbers(n_samples=wrong)
