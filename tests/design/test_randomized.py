import numpy as np
import pytest

import fisher_jax as fj
from fisher_jax.design import randomized
from fisher_jax.design.budget import Budget
from fisher_jax.design.randomized import draw_fisher, inclusion_probabilities, optimal_design
from tests.helpers.references import log_det, random_pool

N = 30


@pytest.fixture(scope="module")
def emb():
    return fj.TokenEmbeddings.from_list(random_pool(0, N, [1, 2, 5], 4))


def test_optimal_design_meets_the_equivalence_theorem(emb):
    budget = Budget.of(emb, n_samples=10)
    v = optimal_design(emb, budget, ridge=1e-4, steps=3000)
    grams = [emb[i].T.astype(np.float64) @ emb[i] for i in range(N)]
    inverse = np.linalg.inv(sum(w * g for w, g in zip(v, grams, strict=True)))
    leverage = np.array([np.trace(inverse @ g) for g in grams])
    assert v.sum() == pytest.approx(1) and leverage.max() < 4 * 1.01  # D at most, at the optimum
    assert np.sum(v > 1e-3) < N  # and sparse


def test_more_steps_never_lower_the_objective(emb):
    budget = Budget.of(emb, token_budget=20)

    def objective(v):
        scaled = 20 * v / emb.lengths
        return log_det(np.eye(4) + sum(w * emb[i].T @ emb[i] for i, w in enumerate(scaled)))

    values = [objective(optimal_design(emb, budget, ridge=1.0, steps=k)) for k in (0, 1, 5, 50)]
    assert values == sorted(values) and values[-1] > values[0] + 0.1


def test_inclusion_probabilities_spend_the_budget(emb):
    shares = np.arange(1, N + 1) ** 3.0
    shares /= shares.sum()
    for budget in (Budget.of(emb, n_samples=12), Budget.of(emb, token_budget=33)):
        p = inclusion_probabilities(shares, budget)
        assert p.min() > 0 and p.max() == 1
        assert np.sum(p * budget.costs) == pytest.approx(budget.total)
    assert (inclusion_probabilities(shares, Budget.of(emb, token_budget=1e6)) == 1).all()


def test_rows_are_drawn_as_often_as_they_should(emb, monkeypatch):
    budget = Budget.of(emb, n_samples=8)
    design = randomized.optimal_design(emb, budget, ridge=1.0)  # the same for every seed
    monkeypatch.setattr(randomized, "optimal_design", lambda *args, **kwargs: design)
    draws = [draw_fisher(emb, budget, ridge=1.0, seed=s) for s in range(1500)]
    assert {len(d.ranking) for d in draws} == {8}
    counts = np.bincount(np.concatenate([d.ranking for d in draws]), minlength=N) / 1500
    np.testing.assert_allclose(counts, draws[0].inclusion, atol=0.05)
    # Horvitz-Thompson: the weighted total of any quantity is right on average
    quantity = np.arange(N) ** 2.0
    estimates = [d.weights @ quantity[d.ranking] for d in draws]
    expected = quantity.mean() * 8
    assert np.mean(estimates) == pytest.approx(expected, rel=0.05)


def test_tokens_are_never_exceeded_and_uniform_weights_are_one(emb):
    budget = Budget.of(emb, token_budget=25)
    for seed in range(50):
        draw = draw_fisher(emb, budget, ridge=1.0, seed=seed)
        assert emb.lengths[draw.ranking].sum() <= 25
    uniform = draw_fisher(emb, Budget.of(emb, n_samples=9), ridge=1.0, seed=0, epsilon=1.0)
    np.testing.assert_allclose(uniform.weights, 1)
    rows = fj.TokenEmbeddings.from_list([np.ones((100, 2))] * 9 + [np.ones((10, 2))])
    for seed in range(20):  # one row fits, and it is drawn
        draw = draw_fisher(rows, Budget.of(rows, token_budget=50), ridge=1.0, seed=seed)
        assert draw.ranking.tolist() == [9] and draw.inclusion.tolist() == [0] * 9 + [1]
    with pytest.raises(ValueError, match="epsilon"):
        draw_fisher(emb, budget, ridge=1.0, seed=0, epsilon=0.0)


def test_embeddings_without_information_are_told_of():
    nothing = fj.TokenEmbeddings.from_list([np.zeros((2, 3), np.float32)] * 6)
    for budget in (Budget.of(nothing, n_samples=3), Budget.of(nothing, token_budget=7)):
        with pytest.raises(ValueError, match="embeddings have no information: they are all zero"):
            draw_fisher(nothing, budget, ridge=1.0, seed=0)


def test_a_small_ridge_is_one_beside_the_whole_budget():
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((4000, 24)).astype(np.float32)
    tokens -= tokens.mean(axis=1, keepdims=True)  # no information in one direction
    emb = fj.TokenEmbeddings(tokens, np.arange(0, 4001, 4))
    draw = draw_fisher(emb, Budget.of(emb, n_samples=500), ridge=1e-5, seed=0)
    assert len(draw.ranking) > 400
