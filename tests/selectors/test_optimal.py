import subprocess
import sys

import jax
import numpy as np
import pytest

import fisher_jax as fj
from fisher_jax import design
from fisher_jax.design import i_optimal
from fisher_jax.design.budget import Budget, take
from fisher_jax.design.softmax_model import information as exact
from fisher_jax.selectors import SELECTORS
from fisher_jax.util.streams import stream
from tests.helpers.references import DIM, N, algorithm_1, greedy, log_det, random_pool

pytestmark = pytest.mark.usefixtures("small_buckets")


def test_fisher_is_algorithm_1_and_spends_tokens_by_gain_alone(emb, examples):
    ranking, _ = algorithm_1(examples, 15, 1.0)
    np.testing.assert_array_equal(SELECTORS["fisher"](emb, n_samples=15).ranking, ranking)
    spent = np.cumsum(emb.lengths[ranking])
    budget = int(spent[9])
    by_tokens = SELECTORS["fisher"](emb, token_budget=budget)
    np.testing.assert_array_equal(by_tokens.ranking, ranking[:10])


@pytest.mark.parametrize(
    ("name", "budget"), [("fisher", {"n_samples": 12}), ("fisher_per_token", {"token_budget": 60})]
)
def test_gains_that_a_rule_knows_are_not_computed_again(name, budget, emb, monkeypatch):
    monkeypatch.setattr(design, "evaluate", None)
    got, expected = SELECTORS[name](emb, **budget), fj.select(emb, **budget)
    np.testing.assert_array_equal(got.ranking, expected.ranking)
    np.testing.assert_array_equal(got.gains, expected.gains)
    assert got.log_det == expected.log_det
    ranking = SELECTORS[name].rank(emb, Budget.of(emb, **budget))
    np.testing.assert_array_equal(ranking, expected.ranking)


def test_fisher_per_token_is_gain_over_length(emb, examples):
    by_tokens = SELECTORS["fisher_per_token"](emb, token_budget=60).ranking
    np.testing.assert_array_equal(by_tokens, fj.select(emb, token_budget=60).ranking)
    got = SELECTORS["fisher_per_token"](emb, n_samples=12).ranking
    np.testing.assert_array_equal(got, greedy(examples, 12, log_det, emb.lengths))
    same = {"token_budget": 12, "costs": np.ones(N)}  # all cost the same, and that is divided by
    got = SELECTORS["fisher_per_token"](emb, **same).ranking
    np.testing.assert_array_equal(got, fj.select(emb, n_samples=12).ranking)


def test_fisher_mixed_is_half_fisher_half_uniform(emb):
    mixed = SELECTORS["fisher_mixed"](emb, n_samples=10, seed=2).ranking
    np.testing.assert_array_equal(mixed[:5], fj.select(emb, n_samples=5).ranking)
    other = SELECTORS["fisher_mixed"](emb, n_samples=10, seed=3).ranking
    assert set(mixed[5:]) != set(other[5:])
    with pytest.raises(ValueError, match="share must be from 0 to 1, got 2"):
        SELECTORS["fisher_mixed"](emb, n_samples=10, share=2)


@pytest.mark.parametrize("budget", [{"n_samples": 10}, {"token_budget": 40}])
def test_a_share_of_nothing_takes_no_row_by_fisher(emb, budget):
    none = SELECTORS["fisher_mixed"](emb, **budget, seed=2, share=0).ranking
    drawn = take(Budget.of(emb, **budget), stream(2, "fisher_mixed").permutation(len(emb)))
    np.testing.assert_array_equal(none, drawn)
    little = SELECTORS["fisher_mixed"](emb, **budget, seed=2, share=1e-3).ranking
    np.testing.assert_array_equal(none, little)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_sentence_od_is_the_design_on_one_vector_a_row(emb, examples, pooling):
    pooled = [x.mean(axis=0)[None] if pooling == "mean" else x[-1:] for x in examples]
    ranking, _ = algorithm_1(pooled, 10, 1.0)
    got = SELECTORS["sentence_od"](emb, n_samples=10, pooling=pooling).ranking
    np.testing.assert_array_equal(got, ranking)


def variance_greedy(examples, n, per, targets=None):
    targets = np.concatenate(examples if targets is None else targets).astype(np.float64)
    sigma = targets.T @ targets / len(targets)
    return greedy(examples, n, lambda v: -np.trace(np.linalg.inv(v) @ sigma), per)


I_OPTIMAL = ["i_optimal", "i_optimal_per_token"]


@pytest.mark.parametrize("name", I_OPTIMAL)
@pytest.mark.parametrize("lengths", [[1, 3, 8], [2, 5]])
def test_i_optimal_is_brute_force(name, lengths):
    examples = random_pool(5, N, lengths, DIM)
    emb = fj.TokenEmbeddings.from_list(examples)
    per = np.ones(N) if name == "i_optimal" else emb.lengths
    got = SELECTORS[name](emb, n_samples=15).ranking
    np.testing.assert_array_equal(got, variance_greedy(examples, 15, per))


@pytest.mark.parametrize("name", I_OPTIMAL)
def test_i_optimal_is_brute_force_for_long_rows(name):
    examples = random_pool(7, 24, [3, 12, 30], 24)  # of one block, of two, cut to three
    emb = fj.TokenEmbeddings.from_list(examples)
    per = np.ones(24) if name == "i_optimal" else emb.lengths
    got = SELECTORS[name](emb, n_samples=10).ranking
    np.testing.assert_array_equal(got, variance_greedy(examples, 10, per))


@pytest.mark.parametrize("power", [0, 0.5])
def test_a_gain_is_divided_by_a_power_of_the_length(power, examples, emb):
    got = SELECTORS["i_optimal_per_token"](emb, n_samples=10, power=power).ranking
    np.testing.assert_array_equal(got, variance_greedy(examples, 10, emb.lengths**power))
    got = SELECTORS["fisher_per_token"](emb, token_budget=50, power=power).ranking
    ranking, left, v = [], 50, np.eye(DIM)
    while any(len(x) <= left for i, x in enumerate(examples) if i not in ranking):
        gains = [
            -np.inf
            if i in ranking or len(x) > left
            else (log_det(v + x.astype(np.float64).T @ x) - log_det(v)) / len(x) ** power
            for i, x in enumerate(examples)
        ]
        ranking.append(int(np.argmax(gains)))
        left -= len(examples[ranking[-1]])
        v += examples[ranking[-1]].astype(np.float64).T @ examples[ranking[-1]]
    np.testing.assert_array_equal(got, ranking)
    assert ranking != SELECTORS["fisher_per_token"](emb, token_budget=50).ranking.tolist()


@pytest.mark.parametrize("name", ["fisher_per_token", "i_optimal_per_token"])
def test_a_power_that_is_no_number_is_refused(name, emb):
    with pytest.raises(ValueError, match="power must be a finite number, got nan"):
        SELECTORS[name](emb, n_samples=3, power=np.nan)


@pytest.mark.parametrize("name", I_OPTIMAL)
def test_i_optimal_for_a_task_is_brute_force_on_its_tokens(name, examples, emb):
    targets = random_pool(9, 5, [2, 4], DIM)
    targets = [x * np.array([9] + [0.1] * (DIM - 1), np.float32) for x in targets]
    per = np.ones(len(examples)) if name == "i_optimal" else emb.lengths
    expected = variance_greedy(examples, 10, per, targets)
    assert expected != variance_greedy(examples, 10, per)
    got = SELECTORS[name](emb, n_samples=10, targets=fj.TokenEmbeddings.from_list(targets)).ranking
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    "rule", [*(SELECTORS[name] for name in I_OPTIMAL), SELECTORS["rds"]], ids=lambda r: r.name
)
def test_targets_that_are_not_embedded_as_the_pool_is_are_refused(rule, emb):
    targets = random_pool(9, 5, [2, 4], DIM)
    narrow = fj.TokenEmbeddings.from_list([x[:, :-1] for x in targets])
    with pytest.raises(ValueError, match=f"targets must have the pool's width, {DIM}"):
        rule(emb, n_samples=10, targets=narrow)
    with pytest.raises(ValueError, match=r"targets must be TokenEmbeddings.*got str"):
        rule(emb, n_samples=10, targets="rows")
    as_list = rule(emb, n_samples=10, targets=targets).ranking
    embedded = fj.TokenEmbeddings.from_list(targets)
    np.testing.assert_array_equal(rule(emb, n_samples=10, targets=embedded).ranking, as_list)


# batches of factorisations side by side once waited for each other for ever, on two cores
LONG_ROWS = """
import os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
import numpy as np, fisher_jax as fj
from fisher_jax.selectors import SELECTORS
rng = np.random.default_rng(0)
lengths = np.repeat([8, 19, 26, 42, 64], 40)
tokens = rng.standard_normal((lengths.sum(), 96)).astype(np.float32)
emb = fj.TokenEmbeddings(tokens, np.concatenate([[0], np.cumsum(lengths)]))
print(len(SELECTORS["i_optimal"](emb, n_samples=5).ranking))
print(len(fj.select(emb, n_samples=5, method="naive").ranking))
"""


def test_long_rows_of_many_lengths_do_not_hang():
    done = subprocess.run(
        [sys.executable, "-c", LONG_ROWS], capture_output=True, text=True, timeout=300
    )
    assert done.stdout.split() == ["5", "5"], done.stderr


def test_i_optimal_stays_exact_past_a_refresh():
    examples = random_pool(6, 100, [1, 2], 4)
    got = SELECTORS["i_optimal"](fj.TokenEmbeddings.from_list(examples), n_samples=80).ranking
    x = variance_greedy(examples, 80, np.ones(100))
    assert np.mean(got == x) > 0.9 and set(got[:60]) == set(x[:60])


def test_i_optimal_refuses_what_memory_cannot_hold(emb, monkeypatch):
    monkeypatch.setattr(i_optimal, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="two M x M matrices a row"):
        SELECTORS["i_optimal"](emb, n_samples=3)


def test_exact_information_is_greedy_on_the_hessian(emb, theta, examples):
    theta = theta.astype(np.float64)
    with jax.enable_x64(True):
        h = [np.asarray(exact(theta, x.astype(np.float64), reduced=True)) for x in examples]
    ranking, v = [], np.eye(len(h[0]))
    for _ in range(8):
        gains = [-np.inf if i in ranking else log_det(v + x) for i, x in enumerate(h)]
        ranking.append(int(np.argmax(gains)))
        v = v + h[ranking[-1]]
    got = SELECTORS["exact_information"](emb, n_samples=8, theta=theta).ranking
    np.testing.assert_array_equal(got, ranking)
    with pytest.raises(ValueError, match="theta must be"):
        SELECTORS["exact_information"](emb, n_samples=3, theta=theta[:-1])
