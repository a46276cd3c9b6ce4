import inspect

import numpy as np
import pytest
from scipy.special import softmax

import fisher_jax as fj
from fisher_jax.design.budget import Budget
from fisher_jax.selectors.registry import SELECTORS
from tests.helpers.references import DIM, N

pytestmark = pytest.mark.usefixtures("small_buckets")


@pytest.fixture(scope="module")
def extras(emb, theta):
    return {
        "losses": np.random.default_rng(1).uniform(1, 2, N),
        "probabilities": softmax(emb.tokens @ theta, axis=1),
        "theta": theta,
    }


def call(name, emb, extras, **kwargs):
    selector = SELECTORS[name]
    return selector(emb, **kwargs, **{k: extras[k] for k in selector.needs})


@pytest.mark.parametrize("name", SELECTORS)
def test_every_selector_keeps_its_budget_and_its_seed(name, emb, extras):
    one = call(name, emb, extras, n_samples=12, seed=3)
    assert len(set(one.ranking.tolist())) == 12 and one.ranking.dtype == np.int64
    again = call(name, emb, extras, n_samples=12, seed=3)
    assert one.ranking.tobytes() == again.ranking.tobytes()
    np.testing.assert_allclose(one.gains, fj.evaluate(emb, one.ranking).gains, rtol=1e-5)
    by_tokens = call(name, emb, extras, token_budget=50, seed=3)
    spent = emb.lengths[by_tokens.ranking].sum()
    assert 35 < spent <= 50 and len(set(by_tokens.ranking.tolist())) == len(by_tokens.ranking)
    whole = call(name, emb, extras, n_samples=N, seed=3)
    assert sorted(whole.ranking.tolist()) == list(range(N))


@pytest.mark.parametrize("name", SELECTORS)
def test_what_is_missing_or_unknown_is_said(name, emb, extras):
    selector = SELECTORS[name]
    if selector.needs:
        with pytest.raises(ValueError, match=f"'{name}' needs {selector.needs[0]}="):
            selector(emb, n_samples=3)
    with pytest.raises(ValueError, match=f"'{name}' has no argument 'colour'"):
        call(name, emb, extras | {"colour": 1}, n_samples=3, colour=1)


LOOPS = ["fisher", "fisher_per_token", "sentence_od", "i_optimal", "i_optimal_per_token"]


@pytest.mark.parametrize("name", [*LOOPS, "exact_information", "fisher_mixed"])
def test_progress_of_long_rules_is_told(name, emb, extras):
    seen = []
    quiet = call(name, emb, extras, n_samples=12)
    told = call(name, emb, extras, n_samples=12, on_progress=seen.append)
    np.testing.assert_array_equal(told.ranking, quiet.ranking)
    assert seen == sorted(seen) and seen[-1] == (6 if name == "fisher_mixed" else 12)
    call(name, emb, extras, token_budget=50, on_progress=seen.append)
    assert 6 <= seen[-1] <= 50


def test_a_selectors_signature_is_that_of_a_call():
    parameters = inspect.signature(SELECTORS["k_center"]).parameters
    assert {"n_samples", "token_budget", "costs", "seed"} <= {*parameters}
    assert "Sener" in SELECTORS["k_center"].__doc__


def test_uniform_draws_every_row_equally_often(emb):
    counts = np.zeros(N)
    for seed in range(600):
        counts[SELECTORS["uniform"].rank(emb, Budget.of(emb, n_samples=10), seed=seed)] += 1
    assert np.sum((counts - 150) ** 2 / (150 * 0.75)) < 75  # chi-squared, 39 degrees


def test_longest_goes_by_length_and_then_index(emb):
    ranking = SELECTORS["longest"](emb, n_samples=N).ranking
    assert ranking.tolist() == sorted(range(N), key=lambda i: (-emb.lengths[i], i))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_is_a_whole_number_from_zero(emb, seed):
    with pytest.raises(ValueError, match="seed must be a whole number from 0"):
        SELECTORS["uniform"](emb, n_samples=2, seed=seed)


@pytest.mark.parametrize(
    ("theta", "message"),
    [
        (np.ones((DIM, 1)), "L >= 2, got shape"),
        (np.ones((DIM + 1, 3)), f"D = {DIM}"),
        (np.full((DIM, 3), np.inf), "theta must be finite"),
    ],
)
def test_a_theta_that_no_model_has_is_refused(emb, theta, message):
    with pytest.raises(ValueError, match=message):
        SELECTORS["exact_information"](emb, n_samples=2, theta=theta)
