import numpy as np
import pytest

import fisher_jax as fj
from fisher_jax.selectors import SELECTORS, scored
from tests.helpers.references import DIM, N, algorithm_1, greedy, log_det

pytestmark = pytest.mark.usefixtures("small_buckets")


def one_token_rows(vectors):
    return fj.TokenEmbeddings(vectors.astype(np.float32), np.arange(len(vectors) + 1))


@pytest.mark.parametrize(
    ("name", "key", "sign"),
    [
        ("perplexity_low", "losses", 1),
        ("perplexity_high", "losses", -1),
        ("ask_llm", "quality", -1),
        ("el2n", "el2n", -1),
        ("gradient_norm", "gradient_norm", -1),
    ],
)
def test_rows_stand_in_the_order_of_their_score(name, key, sign, emb, extras):
    values = np.round(extras[key], 1)  # with ties
    ranking = SELECTORS[name](emb, n_samples=N, **{key: values}).ranking
    assert ranking.tolist() == sorted(range(N), key=lambda i: (sign * values[i], i))


def test_the_middle_is_cut_by_percentile(emb):
    losses = np.random.default_rng(0).permutation(N) ** 3.0  # far from its mean by value
    for n in (10, 20):
        got = SELECTORS["perplexity_middle"](emb, n_samples=n, losses=losses).ranking
        low, high = np.quantile(losses, [0.5 - n / N / 2, 0.5 + n / N / 2])
        assert set(got) == set(np.flatnonzero((low <= losses) & (losses <= high)))
    first = losses[got[:2]]
    assert np.mean(first) == np.median(losses)


def test_ifd_drops_rows_above_1_until_nothing_else_is_left():
    emb = fj.TokenEmbeddings.from_list(np.eye(5, dtype=np.float32)[:, None])
    ifd = np.array([0.5, 1.4, 1.0, 1.1, 0.9])
    for n, expected in ((3, [2, 4, 0]), (5, [2, 4, 0, 3, 1])):
        assert SELECTORS["ifd"](emb, n_samples=n, ifd=ifd).ranking.tolist() == expected


def scaled(examples, emb, weights):
    return [
        x * np.sqrt(weights[a:b, None])
        for x, a, b in zip(examples, emb.offsets, emb.offsets[1:], strict=False)
    ]


def test_fisher_weighted_is_algorithm_1_on_the_weighted_design(emb, examples, extras, choose):
    weights = extras["weights"]
    ranking, _ = algorithm_1(scaled(examples, emb, weights), 15, 1.0)
    got = choose("fisher_weighted", n_samples=15).ranking
    np.testing.assert_array_equal(got, ranking)
    unweighted = fj.select(emb, n_samples=15).ranking
    assert got.tolist() != unweighted.tolist()
    ones = SELECTORS["fisher_weighted"](emb, n_samples=15, weights=np.ones(len(weights)))
    np.testing.assert_array_equal(ones.ranking, unweighted)


def test_the_weighted_design_is_the_trace_of_the_exact_information(emb, p, extras):
    exact = sum(
        np.kron(np.diag(q) - np.outer(q, q), np.outer(x, x))
        for q, x in zip(p, emb.tokens.astype(np.float64), strict=True)
    )
    over_labels = np.trace(exact.reshape(p.shape[1], DIM, p.shape[1], DIM), axis1=0, axis2=2)
    x = scored.weighted(emb, extras["weights"]).tokens
    np.testing.assert_allclose(x.T @ x, over_labels, rtol=1e-4, atol=1e-4)


def test_negative_weights_are_refused(emb, extras):
    with pytest.raises(ValueError, match="at least 0"):
        scored.weighted(emb, -extras["weights"])


def test_fisher_weighted_per_token_and_i_optimal_weighted_are_brute_force(
    emb, examples, extras, choose
):
    rows = scaled(examples, emb, extras["weights"])
    sigma = sum(x.T @ x for x in rows)

    got = choose("fisher_weighted_per_token", n_samples=10).ranking
    assert got.tolist() == greedy(rows, 10, log_det, emb.lengths)
    got = choose("i_optimal_weighted", n_samples=10).ranking
    variance = lambda v: -np.trace(np.linalg.solve(v, sigma))  # noqa: E731
    assert got.tolist() == greedy(rows, 10, variance, np.ones(N))


def test_rds_gives_each_target_its_nearest_row_in_turn(examples, extras, choose):
    pooled = [np.average(x, axis=0, weights=1 + np.arange(len(x))) for x in examples]
    cosine = [
        [t @ x / np.linalg.norm(t) / np.linalg.norm(x) for x in pooled]
        for t in extras["targets"].tokens
    ]
    expected = []
    for turn in range(20):
        order = np.argsort(-np.array(cosine[turn % 3]))
        expected.append(next(int(i) for i in order if i not in expected))
    assert choose("rds", n_samples=20).ranking.tolist() == expected
    larger = extras | {"targets": one_token_rows(7 * extras["targets"].tokens)}
    assert choose("rds", larger, n_samples=20).ranking.tolist() == expected


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("k", [2, 5])
def test_adaicl_is_greedy_max_cover_of_the_hard_half(examples, extras, choose, k, hops):
    points = np.stack([x.mean(axis=0) for x in examples]).astype(np.float64)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    cosine = points @ points.T - 3 * np.eye(N)
    nearest = [set(np.argsort(-row)[:k]) for row in cosine]
    chosen, rounds = [], 0
    while len(chosen) < N:
        left = [i for i in np.argsort(-extras["uncertainty"]) if i not in chosen]
        hard = sorted(left[: max(1, len(left) // 2)])
        pointing = {i: {j for j in hard if i in nearest[j]} for i in hard}
        covers = {i: {i} | pointing[i] for i in hard}
        if hops == 2:
            covers = {i: c.union(*(pointing[j] for j in pointing[i])) for i, c in covers.items()}
        uncovered = set(hard)
        while uncovered:
            best = max(hard, key=lambda i: (len(covers[i] & uncovered), -i))
            uncovered -= covers[best]
            chosen.append(best)
        rounds += 1
    assert rounds > 3
    got = choose("adaicl", n_samples=N, k=k, hops=hops).ranking
    assert got.tolist() == chosen


@pytest.mark.parametrize("options", [{"k": 0}, {"hops": 3}])
def test_adaicl_refuses_other_graphs(choose, options):
    with pytest.raises(ValueError, match="k must be at least 1 and hops 1 or 2"):
        choose("adaicl", n_samples=3, **options)


def test_adaicl_takes_one_row_and_neighbours_beyond_the_first_thousand():
    one = fj.TokenEmbeddings.from_list([np.ones((2, 3), np.float32)])
    assert SELECTORS["adaicl"](one, n_samples=1, uncertainty=np.ones(1)).ranking == [0]
    angle = np.arange(1100) * 2 * np.pi / 1100
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    graph = scored._nearest(circle, 2).toarray()
    np.testing.assert_array_equal(
        graph, np.roll(np.eye(1100), 1, axis=1) + np.roll(np.eye(1100), -1, axis=1)
    )
