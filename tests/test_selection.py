import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import algorithm_1, cost_benefit, f, random_pool

import fisher_jax as fj
from fisher_jax import greedy, selection
from fisher_jax.budget import Budget, budget_in_examples, check_numbers, take
from fisher_jax.design import check_pool
from fisher_jax.selection import remaining_gains

pytestmark = pytest.mark.usefixtures("no_rank_promotion", "small_buckets")
# lengths from 1 to more than D; every new shape is a compilation, so the grid is fixed
SHAPES = [
    (30, [1], 1),
    (40, [1, 3, 9], 3),
    (60, [2, 7, 30], 10),
    (50, [1, 4, 17, 33], 64),
    (24, [5, 40], 256),
    (12, [3, 20], 1024),
]


def pool(seed, n, lengths, dim, dtype=np.float32, *, awkward=True):
    """A random pool; an awkward one also has duplicates and rows of zeros."""
    examples = random_pool(seed, n, lengths, dim, dtype)
    if awkward:
        rng = np.random.default_rng(seed)
        for length in lengths:
            members = [i for i, x in enumerate(examples) if len(x) == length]
            for i, j in rng.choice(members, (len(members) // 3, 2)):
                examples[i] = examples[j]
        for i in rng.integers(0, n, 3):
            examples[i] = np.zeros_like(examples[i])
    return examples


@pytest.mark.parametrize(
    ("n", "lengths", "dim", "dtype"),
    [(*shape, np.float32) for shape in SHAPES] + [(*SHAPES[2], np.float64)],
)
def test_lazy_and_naive_give_the_same_ranking_and_gains(n, lengths, dim, dtype):
    for seed in range(4):
        emb = fj.TokenEmbeddings.from_list(pool(seed, n, lengths, dim, dtype))
        for budget in ({"n_samples": n}, {"token_budget": int(emb.lengths.sum()) // 3}):
            lazy = fj.select(emb, **budget)
            naive = fj.select(emb, **budget, method="naive")
            np.testing.assert_array_equal(lazy.ranking, naive.ranking)
            np.testing.assert_allclose(lazy.gains, naive.gains, rtol=1e-6, atol=1e-30)


def one_hot_pool(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.permutation(np.resize([1, 2, 3], 20))
    tokens = np.eye(5, dtype=np.float32)[rng.integers(0, 5, lengths.sum())]
    return fj.TokenEmbeddings(tokens, np.concatenate([[0], np.cumsum(lengths)]))


@pytest.mark.parametrize("seed", range(200))
def test_ties_of_one_hot_pools_go_to_the_lowest_index(seed):
    emb = one_hot_pool(seed)
    expected, gains = algorithm_1([emb[i] for i in range(20)], 12, 1.0)
    for method in ("lazy", "naive"):
        got = fj.select(emb, n_samples=12, method=method)
        np.testing.assert_array_equal(got.ranking, expected)
        np.testing.assert_allclose(got.gains, gains, rtol=1e-5)


@pytest.mark.parametrize(
    ("n", "lengths", "dim", "dtype"),
    [(*shape, np.float32) for shape in SHAPES[:4]] + [(*SHAPES[2], np.float64)],
)
def test_ranking_and_gains_are_those_of_algorithm_1(n, lengths, dim, dtype):
    examples = pool(7, n, lengths, dim, dtype, awkward=False)
    expected, gains = algorithm_1(examples, 12, 0.5)
    got = fj.select(fj.TokenEmbeddings.from_list(examples), n_samples=12, ridge=0.5)
    np.testing.assert_array_equal(got.ranking, expected)
    np.testing.assert_allclose(got.gains, gains, rtol=1e-5 if dtype == np.float32 else 1e-10)
    assert got.log_det == pytest.approx(f(examples, expected, 0.5), rel=1e-5)


def test_duplicates_are_chosen_lowest_index_first():
    examples = random_pool(3, 8, [6], 16)
    emb = fj.TokenEmbeddings.from_list([x for x in examples for _ in range(3)])
    for method in ("lazy", "naive"):
        ranking = fj.select(emb, n_samples=24, method=method).ranking
        for i in range(8):
            copies = [r for r in ranking if r // 3 == i]
            assert copies == sorted(copies)


@pytest.mark.parametrize("budget", [7, 40, 200])
def test_token_budget_is_greedy_by_gain_per_cost_and_never_exceeded(budget):
    examples = pool(5, 40, [1, 2, 5, 9, 14], 6, np.float64, awkward=False)
    emb = fj.TokenEmbeddings.from_list(examples)
    expected, gains = cost_benefit(examples, budget, emb.lengths, 1.0)
    got = fj.select(emb, token_budget=budget)
    np.testing.assert_array_equal(got.ranking, expected)
    np.testing.assert_allclose(got.gains, gains, rtol=1e-9)
    assert emb.lengths[got.ranking].sum() <= budget


def test_costs_may_be_fractions_and_are_added_exactly():
    examples = pool(6, 30, [2, 3], 5, np.float64, awkward=False)
    emb = fj.TokenEmbeddings.from_list(examples)
    costs = np.random.default_rng(0).uniform(0.1, 2.0, 30)
    expected, _ = cost_benefit(examples, 6.5, costs, 1.0)
    got = fj.select(emb, token_budget=6.5, costs=costs)
    np.testing.assert_array_equal(got.ranking, expected)
    assert costs[got.ranking].sum() <= 6.5
    everything = fj.select(emb, token_budget=float(np.sum(costs)) + 1e-6, costs=costs)
    assert len(everything.ranking) == 30


def test_gains_never_rise_and_are_never_negative():
    emb = fj.TokenEmbeddings.from_list(pool(1, 120, [1, 4, 9], 12))
    gains = fj.select(emb, n_samples=120).gains
    assert np.all(gains >= 0)
    assert np.all(np.diff(gains) <= 1e-5 * gains[:-1] + 1e-7)


def test_greedy_keeps_its_guarantee():
    import itertools

    examples = random_pool(2, 9, [1, 2, 3], 3)
    best = max(f(examples, s, 1.0) for s in itertools.combinations(range(9), 4))
    got = fj.select(fj.TokenEmbeddings.from_list(examples), n_samples=4)
    assert (1 - 1 / np.e) * best <= got.log_det <= best * (1 + 1e-5)


def test_permuting_the_pool_permutes_the_ranking():
    examples = random_pool(4, 40, [3, 8], 9)
    order = np.random.default_rng(0).permutation(40)
    a = fj.select(fj.TokenEmbeddings.from_list(examples), n_samples=15)
    b = fj.select(fj.TokenEmbeddings.from_list([examples[i] for i in order]), n_samples=15)
    np.testing.assert_array_equal(order[b.ranking], a.ranking)


def test_smaller_budgets_are_prefixes():
    emb = fj.TokenEmbeddings.from_list(pool(8, 40, [3, 8], 9))
    whole = fj.select(emb, n_samples=40)
    for k in (1, 7, 20):
        part = fj.select(emb, n_samples=k)
        np.testing.assert_array_equal(part.ranking, whole.ranking[:k])


@pytest.mark.parametrize(
    ("fraction", "n", "k"),
    [(0.1, 25, 3), (0.1, 24, 2), (0.001, 10, 1), (0.5, 5, 3), (1.0, 7, 7), (0.3, 10, 3)],
)
def test_fraction_is_rounded_half_up_and_at_least_one(fraction, n, k):
    assert budget_in_examples(n, None, fraction) == k


@pytest.mark.parametrize("ridge", [1e-6, 1e-4, 1e4, 1e6])
def test_ridges_out_of_float32s_reach_are_computed_in_float64(ridge):
    examples = random_pool(9, 40, [2, 6], 24)
    expected, gains = algorithm_1(examples, 25, ridge, rtol=1e-12)
    got = fj.select(fj.TokenEmbeddings.from_list(examples), n_samples=25, ridge=ridge)
    assert got.gains.dtype == np.float64
    np.testing.assert_array_equal(got.ranking, expected)
    np.testing.assert_allclose(got.gains, gains, rtol=1e-5)  # slogdet's own rounding at 1e6


@pytest.mark.parametrize("ridge", [1e-3, 1.0, 900.0])
def test_float32_does_not_drift_over_5000_choices(ridge):
    examples = random_pool(10, 5000, [1, 3, 6, 12], 48)
    scale = np.sqrt(np.mean(np.concatenate(examples) ** 2 @ np.ones(48))).astype(np.float32)
    narrow = fj.TokenEmbeddings.from_list([x / scale for x in examples])
    wide = fj.TokenEmbeddings(narrow.tokens.astype(np.float64), narrow.offsets)
    ranking = fj.select(narrow, n_samples=5000, ridge=ridge * 1.001).ranking
    got, expected = (fj.evaluate(emb, ranking, ridge * 1.001).gains for emb in (narrow, wide))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_refreshing_the_factor_changes_nothing_but_rounding(monkeypatch):
    emb = fj.TokenEmbeddings.from_list(pool(11, 60, [2, 7], 10))
    plain = fj.select(emb, n_samples=60), fj.evaluate(emb, np.arange(60))
    monkeypatch.setattr(selection, "REFRESH", 7)
    fresh = fj.select(emb, n_samples=60), fj.evaluate(emb, np.arange(60))
    for a, b in zip(plain, fresh, strict=True):
        np.testing.assert_array_equal(a.ranking, b.ranking)
        np.testing.assert_allclose(a.gains, b.gains, rtol=1e-4)


def test_evaluate_gives_a_selections_own_gains_back():
    emb = fj.TokenEmbeddings.from_list(pool(12, 50, [1, 5, 11], 8))
    sel = fj.select(emb, n_samples=30, ridge=0.3)
    again = fj.evaluate(emb, sel.ranking, 0.3)
    np.testing.assert_allclose(again.gains, sel.gains, rtol=1e-5)
    assert again.log_det == pytest.approx(sel.log_det, rel=1e-6)


@pytest.mark.parametrize(
    ("lengths", "counts", "expected"),
    [
        ([5], [3], [(0, 3, 5)]),
        ([2, 5], [1, 3], [(0, 1, 2), (1, 4, 5)]),
        ([2, 5, 9], [1, 3, 4], [(0, 1, 2), (1, 4, 5), (4, 8, 9)]),
        ([8, 9, 20, 500], [50, 50, 50, 1], [(0, 100, 9), (100, 150, 20), (150, 151, 500)]),
    ],
)
def test_merged_buckets_are_few_and_keep_a_rare_long_row_apart(lengths, counts, expected):
    ends = np.cumsum(counts).tolist()
    starts = [0, *ends[:-1]]
    buckets = tuple(
        greedy.Bucket.of(*three, rows=128) for three in zip(starts, ends, lengths, strict=True)
    )
    assert [b[:3] for b in greedy.merged(buckets)] == expected


@pytest.mark.parametrize(
    ("n_tokens", "dim", "rows"),
    [(100_000, 576, 128), (1_600_000, 128, 1024), (20_000, 128, 312), (100, 1, 128)],
)
def test_batches_are_large_where_a_row_is_cheap_and_the_pool_large(n_tokens, dim, rows):
    assert greedy.batch_rows(n_tokens, dim) == rows


def test_large_batches_choose_as_the_naive_method():
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 20, 3000)
    tokens = rng.standard_normal((lengths.sum(), 8)).astype(np.float32)
    emb = fj.TokenEmbeddings(tokens, np.concatenate([[0], lengths.cumsum()]))
    assert greedy.batch_rows(*tokens.shape) > 400
    lazy, naive = (fj.select(emb, n_samples=60, method=method) for method in ("lazy", "naive"))
    np.testing.assert_array_equal(lazy.ranking, naive.ranking)
    np.testing.assert_allclose(lazy.gains, naive.gains, rtol=1e-5)


def test_values_over_many_lengths_are_those_of_the_definition():
    examples = random_pool(8, 30, [1, 2, 3, 5, 8, 13], 10)
    emb, chosen = fj.TokenEmbeddings.from_list(examples), [4, 17, 2, 29, 11, 8]
    assert len(np.unique(emb.lengths)) == 6 > greedy.FEW_BUCKETS
    values = [f(examples, chosen[:k], 1.0) for k in range(7)]
    np.testing.assert_allclose(fj.evaluate(emb, chosen).gains, np.diff(values), rtol=2e-5)
    rest = remaining_gains(emb, chosen)
    expected = [f(examples, [*chosen, i], 1.0) - values[-1] for i in range(30) if i not in chosen]
    np.testing.assert_allclose(rest[np.isfinite(rest)], expected, rtol=2e-5)


def test_remaining_gains_are_differences_of_log_determinants():
    examples = random_pool(13, 12, [2, 5], 6)
    chosen = [3, 1, 8]
    got = remaining_gains(fj.TokenEmbeddings.from_list(examples), chosen)
    for i in range(12):
        if i in chosen:
            assert np.isinf(got[i])
        else:
            expected = f(examples, [*chosen, i], 1.0) - f(examples, chosen, 1.0)
            assert got[i] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of"),
        ({"n_samples": 2, "fraction": 0.5}, "n_samples=2 and fraction=0.5"),
        ({"n_samples": 2, "token_budget": 5}, "token_budget=5"),
        ({"n_samples": 0}, "from 1 to 4"),
        ({"n_samples": -1}, "from 1 to 4"),
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


def test_arrays_are_told_how_to_become_a_pool():
    examples = random_pool(0, 4, [2], 3)
    for given in (examples, examples[0]):
        with pytest.raises(ValueError, match=r"emb must be TokenEmbeddings, got .*from_list"):
            check_pool(given)


def test_gains_hold_at_the_smallest_ridge():
    rng = np.random.default_rng(0)
    scale = (1.0 + np.arange(24)) ** -1.5
    examples = [rng.standard_normal((2, 24)) * scale for _ in range(30)]
    emb = fj.TokenEmbeddings.from_list(examples)
    ridge = 1.1e-14 * emb.mean_squared_norm()
    got = fj.select(emb, n_samples=12, ridge=ridge)
    assert len(set(got.ranking)) == 12
    x = np.concatenate([examples[i] for i in got.ranking])
    log_det = np.sum(np.log1p(np.linalg.svd(x, compute_uv=False) ** 2 / ridge))
    assert got.log_det == pytest.approx(log_det, rel=1e-5)


def test_squares_that_float32_cannot_hold_are_told_or_held():
    examples = random_pool(0, 6, [2], 3)
    expected = fj.select(fj.TokenEmbeddings.from_list(examples), n_samples=6).ranking
    for size in (1e-25, 1e25):
        scaled = fj.TokenEmbeddings.from_list([np.float32(x * size) for x in examples])
        got = fj.select(scaled, n_samples=6, ridge=size**2).ranking
        np.testing.assert_array_equal(got, expected)
    large = fj.TokenEmbeddings.from_list([np.float64(x) * 1e160 for x in examples])
    with pytest.raises(ValueError, match="squared norms overflow"):
        fj.select(large, n_samples=1)


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


@pytest.mark.parametrize(
    ("ranking", "message"),
    [
        ([], "at least one"),
        ([4], "within 0..3"),
        ([-1], "within"),
        ([1, 1], "twice"),
        (np.array([0.9]), "at least one whole index"),
    ],
)
def test_evaluate_errors(ranking, message):
    emb = fj.TokenEmbeddings.from_list(random_pool(0, 4, [2], 3))
    with pytest.raises(ValueError, match=message):
        fj.evaluate(emb, ranking)


def test_progress_is_told_and_ends_at_the_budget():
    emb = fj.TokenEmbeddings.from_list(random_pool(0, 300, [2], 3))
    seen = []
    fj.select(emb, n_samples=250, on_progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 250
    assert len(seen) > 50


def test_the_same_call_gives_the_same_bytes():
    emb = fj.TokenEmbeddings.from_list(pool(2, 50, [3, 7], 9))
    a, b = (fj.select(emb, n_samples=30) for _ in range(2))
    assert a.ranking.tobytes() == b.ranking.tobytes()
    assert a.gains.tobytes() == b.gains.tobytes()


def test_one_trace_a_shape():
    emb = fj.TokenEmbeddings.from_list(random_pool(3, 33, [2, 5], 11))
    greedy.advance.clear_cache()
    for ridge in (1.0, 2.0, 3.0):
        fj.select(emb, n_samples=20, ridge=ridge, on_progress=lambda _: None)
    assert greedy.advance._cache_size() == 1


def kernels():
    """Every public kernel with a small example of its arguments."""
    emb = fj.TokenEmbeddings.from_list(random_pool(0, 20, [2, 5, 9], 8))
    with jax.enable_x64(True):
        pool, buckets = greedy.make_pool(emb, *np.ones((2, 20)))
        root = greedy.first_root(8, 1.0, np.float32)
        state = greedy.start(pool, 1.0, 5.0, buckets)
    yield "start", lambda pool: greedy.start(pool, 1.0, 5.0, buckets), (pool,)
    for method in ("lazy", "naive"):
        yield (
            f"advance {method}",
            lambda pool, state, method=method: greedy.advance(pool, state, 5, buckets, method),
            (pool, state),
        )
    yield "all_gains", lambda pool, root: greedy.all_gains(pool, root, buckets), (pool, root)
    yield (
        "replay",
        lambda pool, root, positions: greedy.replay(pool, root, positions, buckets),
        (pool, root, jnp.arange(5)),
    )


KERNELS = {name: (function, args) for name, function, args in kernels()}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_lower_for_every_platform(name):
    function, args = KERNELS[name]
    with jax.enable_x64(True):
        exported = jax.export.export(jax.jit(function), platforms=["cpu", "cuda", "tpu"])(*args)
    assert exported.platforms == ("cpu", "cuda", "tpu")


def dots(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from dots(inner)


@pytest.mark.parametrize("name", KERNELS)
def test_every_product_of_the_kernels_has_highest_precision(name):
    function, args = KERNELS[name]
    with jax.enable_x64(True):
        found = list(dots(jax.make_jaxpr(function)(*args).jaxpr))
    assert found
    for equation in found:
        assert set(equation.params["precision"]) == {jax.lax.Precision.HIGHEST}, equation
