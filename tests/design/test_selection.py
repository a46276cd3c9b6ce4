import os
import subprocess
import sys

import numpy as np
import pytest

import fisher_jax as fj
from fisher_jax.design import evaluation, greedy, selection
from fisher_jax.design.embeddings import as_embeddings
from fisher_jax.design.evaluation import log_dets, remaining_gains, token_gains
from fisher_jax.util import platforms
from tests.helpers.references import algorithm_1, f, random_pool

pytestmark = pytest.mark.usefixtures("no_rank_promotion", "small_buckets")
# every new shape is a compilation of seconds, so the grid is fixed and most tests have one shape
SHAPE = (60, [2, 7, 30], 10)  # lengths below, near and above D
SHAPES = [(30, [1], 1), SHAPE, (50, [1, 4, 17, 33], 64), (12, [3, 20], 1024)]


def pool(seed, n=60, lengths=(2, 7, 30), dim=10, dtype=np.float32, *, awkward=True):
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
    [(*shape, np.float32) for shape in SHAPES] + [(*SHAPE, np.float64)],
)
def test_lazy_and_naive_give_the_same_ranking_and_gains(n, lengths, dim, dtype):
    for seed in range(4):
        emb = fj.TokenEmbeddings.from_list(pool(seed, n, lengths, dim, dtype))
        for budget in ({"n_samples": n}, {"token_budget": int(emb.lengths.sum()) // 3}):
            lazy = fj.select(emb, **budget)
            naive = fj.select(emb, **budget, method="naive")
            np.testing.assert_array_equal(lazy.ranking, naive.ranking)
            np.testing.assert_allclose(lazy.gains, naive.gains, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize(
    "sizes",
    [
        {"factors_together": True, "blocks": 1, "batch_cost": 1e12},
        {"factors_together": True, "blocks": 3, "batch_cost": 1.0},
        {"blocks": 3, "batch_cost": 1e12},
    ],
)
def test_devices_of_every_size_choose_alike(device, sizes):
    emb = fj.TokenEmbeddings.from_list(pool(21))
    one = fj.select(emb, n_samples=40)
    device(**sizes)
    for method in ("lazy", "naive"):
        other = fj.select(emb, n_samples=40, method=method)
        np.testing.assert_array_equal(one.ranking, other.ranking)
        np.testing.assert_allclose(one.gains, other.gains, rtol=1e-5, atol=1e-30)


@pytest.mark.optimised
def test_a_pool_in_bfloat16_is_the_pool_of_rounded_embeddings():
    examples = pool(22, 40, [4], 12, awkward=False)
    emb = fj.TokenEmbeddings.from_list(examples)
    rounded = fj.TokenEmbeddings(np.asarray(emb.tokens.astype("bfloat16"), np.float32), emb.offsets)
    got, expected = (
        fj.select(emb, n_samples=20, pool_dtype="bfloat16"),
        fj.select(rounded, n_samples=20),
    )
    np.testing.assert_array_equal(got.ranking, expected.ranking)
    np.testing.assert_array_equal(got.gains, expected.gains)
    assert not np.array_equal(got.gains, fj.select(emb, n_samples=20).gains)
    with pytest.raises(ValueError, match="pool_dtype must be"):
        fj.select(emb, n_samples=2, pool_dtype="float16")


def one_hot_pool(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.permutation(np.resize([1, 2, 3], 20))
    tokens = np.eye(5, dtype=np.float32)[rng.integers(0, 5, lengths.sum())]
    return fj.TokenEmbeddings(tokens, np.concatenate([[0], np.cumsum(lengths)]))


@pytest.mark.parametrize("seed", range(100))
def test_ties_of_one_hot_pools_go_to_the_lowest_index(seed):
    emb = one_hot_pool(seed)
    expected, gains = algorithm_1([emb[i] for i in range(20)], 12, 1.0)
    for method in ("lazy", "naive"):
        got = fj.select(emb, n_samples=12, method=method)
        np.testing.assert_array_equal(got.ranking, expected)
        np.testing.assert_allclose(got.gains, gains, rtol=1e-5)


@pytest.mark.parametrize(
    ("n", "lengths", "dim", "dtype"),
    [(*shape, np.float32) for shape in SHAPES[:3]] + [(*SHAPE, np.float64)],
)
def test_ranking_and_gains_are_those_of_algorithm_1(n, lengths, dim, dtype):
    examples = pool(7, n, lengths, dim, dtype, awkward=False)
    expected, gains = algorithm_1(examples, 12, 0.5)
    got = fj.select(fj.TokenEmbeddings.from_list(examples), n_samples=12, ridge=0.5)
    np.testing.assert_array_equal(got.ranking, expected)
    np.testing.assert_allclose(got.gains, gains, rtol=1e-5 if dtype == np.float32 else 1e-10)
    assert got.log_det == pytest.approx(f(examples, expected, 0.5), rel=1e-5)


def test_duplicates_are_chosen_lowest_index_first():
    examples = random_pool(3, 20, *SHAPE[1:])
    emb = fj.TokenEmbeddings.from_list([x for x in examples for _ in range(3)])
    for method in ("lazy", "naive"):
        ranking = fj.select(emb, n_samples=60, method=method).ranking
        for i in range(20):
            copies = [r for r in ranking if r // 3 == i]
            assert copies == sorted(copies)


def test_gains_never_rise_and_are_never_negative():
    emb = fj.TokenEmbeddings.from_list(pool(1))
    gains = fj.select(emb, n_samples=60).gains
    assert np.all(gains >= 0)
    assert np.all(np.diff(gains) <= 1e-5 * gains[:-1] + 1e-7)


def test_greedy_keeps_its_guarantee():
    import itertools

    examples = random_pool(2, 9, [1, 2, 3], 3)
    best = max(f(examples, s, 1.0) for s in itertools.combinations(range(9), 4))
    got = fj.select(fj.TokenEmbeddings.from_list(examples), n_samples=4)
    assert (1 - 1 / np.e) * best <= got.log_det <= best * (1 + 1e-5)


def test_permuting_the_pool_permutes_the_ranking():
    examples = random_pool(4, *SHAPE)
    order = np.random.default_rng(0).permutation(60)
    a = fj.select(fj.TokenEmbeddings.from_list(examples), n_samples=15)
    b = fj.select(fj.TokenEmbeddings.from_list([examples[i] for i in order]), n_samples=15)
    np.testing.assert_array_equal(order[b.ranking], a.ranking)


def test_smaller_budgets_are_prefixes():
    emb = fj.TokenEmbeddings.from_list(pool(8))
    whole = fj.select(emb, n_samples=60)
    for k in (1, 7, 20):
        part = fj.select(emb, n_samples=k)
        np.testing.assert_array_equal(part.ranking, whole.ranking[:k])


@pytest.mark.parametrize("ridge", [1e-6, 1e-4, 1e4, 1e6])
def test_ridges_out_of_float32s_reach_are_computed_in_float64(ridge):
    examples = random_pool(9, *SHAPE)
    expected, gains = algorithm_1(examples, 25, ridge, rtol=1e-12)
    got = fj.select(fj.TokenEmbeddings.from_list(examples), n_samples=25, ridge=ridge)
    assert got.gains.dtype == np.float64
    np.testing.assert_array_equal(got.ranking, expected)
    np.testing.assert_allclose(got.gains, gains, rtol=1e-5)  # slogdet's own rounding at 1e6


@pytest.mark.optimised
def test_float32_does_not_drift_over_5000_choices():
    examples = random_pool(10, 5000, [1, 3, 6, 12], 48)
    scale = np.sqrt(np.mean(np.concatenate(examples) ** 2 @ np.ones(48))).astype(np.float32)
    narrow = fj.TokenEmbeddings.from_list([x / scale for x in examples])
    wide = fj.TokenEmbeddings(narrow.tokens.astype(np.float64), narrow.offsets)
    ranking = fj.select(narrow, n_samples=5000).ranking
    for ridge in (1.001e-3, 1.0, 900.0):
        got, expected = (fj.evaluate(emb, ranking, ridge).gains for emb in (narrow, wide))
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_refreshing_the_factor_changes_nothing_but_rounding(monkeypatch):
    emb = fj.TokenEmbeddings.from_list(pool(11))
    plain = fj.select(emb, n_samples=60), fj.evaluate(emb, np.arange(60))
    for module in (selection, evaluation):
        monkeypatch.setattr(module, "REFRESH", 7)
    fresh = fj.select(emb, n_samples=60), fj.evaluate(emb, np.arange(60))
    for a, b in zip(plain, fresh, strict=True):
        np.testing.assert_array_equal(a.ranking, b.ranking)
        np.testing.assert_allclose(a.gains, b.gains, rtol=1e-4)


def test_evaluate_gives_a_selections_own_gains_back():
    emb = fj.TokenEmbeddings.from_list(pool(12))
    sel = fj.select(emb, n_samples=30, ridge=0.3)
    again = fj.evaluate(emb, sel.ranking, 0.3)
    np.testing.assert_allclose(again.gains, sel.gains, rtol=1e-5)
    assert again.log_det == pytest.approx(sel.log_det, rel=1e-6)


@pytest.mark.parametrize(("dim", "ridge"), [(10, 1.0), (10, 0.02), (10, 900.0), (150, 1.0)])
def test_log_dets_are_the_sums_of_evaluated_gains(dim, ridge):
    emb = fj.TokenEmbeddings.from_list(pool(14, dim=dim))
    rng = np.random.default_rng(15)
    orders, done = [rng.permutation(60)[:n] for n in (1, 60, 23)], []
    curves = log_dets(emb, orders, ridge, on_progress=done.append)
    assert done == [1, 2, 3]
    for order, curve in zip(orders, curves, strict=True):
        gains = fj.evaluate(emb, order, ridge).gains
        assert gains.dtype == np.float32
        np.testing.assert_allclose(curve, np.cumsum(gains, dtype=np.float64), rtol=1e-5)


def test_gains_of_tokens_are_those_of_one_after_the_other():
    examples = [x.astype(np.float64) for x in random_pool(3, 6, [2, 5, 9], 4)]
    emb, order = fj.TokenEmbeddings.from_list(examples), [4, 0, 3]
    gains, v = token_gains(emb, order, 0.5), 0.5 * np.eye(4)
    for x, gain in zip(np.concatenate([examples[i] for i in order]), gains, strict=True):
        assert gain == pytest.approx(np.log1p(x @ np.linalg.solve(v, x)), rel=1e-9)
        v += np.outer(x, x)
    of_rows = np.add.reduceat(gains, np.cumsum([0, *emb.lengths[order]])[:-1])
    np.testing.assert_allclose(of_rows, fj.evaluate(emb, order, 0.5).gains, rtol=1e-9)


def test_log_dets_of_pools_of_one_width_share_a_program():
    greedy.replay_tokens.clear_cache()
    for n, lengths in ((9, [2]), (30, [3, 20])):
        emb = fj.TokenEmbeddings.from_list(pool(16, n, lengths, 6))
        log_dets(emb, [np.arange(k) for k in (1, n)], 1.0)
    assert greedy.replay_tokens._cache_size() == 1


def test_large_batches_choose_as_the_naive_method(monkeypatch):
    monkeypatch.undo()  # of small_buckets
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 20, 3000)
    tokens = rng.standard_normal((lengths.sum(), 8)).astype(np.float32)
    emb = fj.TokenEmbeddings(tokens, np.concatenate([[0], lengths.cumsum()]))
    assert platforms.batch_rows(*tokens.shape, 19) > 400
    lazy, naive = (fj.select(emb, n_samples=60, method=method) for method in ("lazy", "naive"))
    np.testing.assert_array_equal(lazy.ranking, naive.ranking)
    np.testing.assert_allclose(lazy.gains, naive.gains, rtol=1e-5)


def test_values_over_many_lengths_are_those_of_the_definition():
    examples = random_pool(8, 30, [1, 2, 3, 5, 8, 13], 10)
    emb, chosen = fj.TokenEmbeddings.from_list(examples), [4, 17, 2, 29, 11, 8]
    assert len(np.unique(emb.lengths)) == 6 > platforms.here().update_lengths
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


def test_what_is_no_pool_is_told_what_would_be():
    for given in (np.ones(3), "text", np.ones((2, 2, 2)), {}):
        with pytest.raises(ValueError, match=r"emb must be TokenEmbeddings, a matrix \(N, D\)"):
            as_embeddings(given)


def test_a_matrix_and_a_list_of_vectors_are_pools_of_one_token_a_row():
    x = np.random.default_rng(0).standard_normal((24, 6)).astype(np.float32)
    expected = fj.select(fj.TokenEmbeddings(x, np.arange(25)), n_samples=9)
    for given in (x, [*x], [row[None] for row in x]):
        got = fj.select(given, n_samples=9)
        np.testing.assert_array_equal(got.ranking, expected.ranking)
        np.testing.assert_array_equal(got.gains, expected.gains)
    again = fj.evaluate(x, expected.ranking)
    np.testing.assert_allclose(again.gains, expected.gains, rtol=1e-5)
    np.testing.assert_array_equal(fj.SELECTORS["fisher"]([*x], n_samples=9).ranking, again.ranking)
    chosen = fj.FisherSelector(n_samples=9).fit_transform(x)
    np.testing.assert_array_equal(chosen, x[expected.ranking])


@pytest.mark.parametrize("method", ["lazy", "naive"])
@pytest.mark.parametrize("budget", [{"n_samples": 8}, {"token_budget": 30}])
def test_a_selection_goes_on_from_rows_that_are_there(method, budget):
    examples = random_pool(3, 24, [1, 3, 8], 6)
    emb, there = fj.TokenEmbeddings.from_list(examples), [5, 2, 17]
    closed = [i for i in range(24) if i not in there]
    owned = [examples[i] for i in there]
    got = fj.select(emb, **budget, initial_subset=there, method=method)
    left, picked, spent = budget.get("token_budget", 8), [], 0
    while True:
        costs = {i: len(examples[i]) if "token_budget" in budget else 1 for i in closed}
        open_ = [i for i in closed if i not in picked and costs[i] <= left - spent]
        if not open_:
            break
        before = f(examples, [*there, *picked], 1.0)
        ratio = {i: (f(examples, [*there, *picked, i], 1.0) - before) / costs[i] for i in open_}
        picked.append(max(open_, key=ratio.__getitem__))
        spent += costs[picked[-1]]
    assert got.ranking.tolist() == picked
    total = f(examples, [*there, *picked], 1.0) - f(examples, there, 1.0)
    assert got.log_det == pytest.approx(total, rel=1e-4)
    other = fj.TokenEmbeddings.from_list([examples[i] for i in closed])
    by_rows = fj.select(other, **budget, initial=owned, method=method)
    assert [closed[i] for i in by_rows.ranking] == picked
    both = fj.select(emb, **budget, initial_subset=there[:1], initial=owned[1:], method=method)
    assert both.gains[0] >= got.gains[0] * (1 - 1e-4)


def test_a_ranking_goes_on_by_its_own_first_part():
    emb = fj.TokenEmbeddings.from_list(random_pool(3, 24, [1, 3, 8], 6))
    whole = fj.select(emb, n_samples=12)
    rest = fj.select(emb, n_samples=8, initial_subset=whole.ranking[:4])
    np.testing.assert_array_equal(rest.ranking, whole.ranking[4:])
    np.testing.assert_allclose(rest.gains, whole.gains[4:], rtol=1e-4)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"initial_subset": [24]}, "initial_subset must stay within"),
        ({"initial_subset": [1, 1]}, "initial_subset names an index twice"),
        ({"initial_subset": [*range(23)]}, "1 of 24 examples are left"),
        ({"initial": np.ones((2, 3))}, "initial must have the pool's width, 6, got 3"),
    ],
)
def test_initial_rows_that_cannot_be_are_refused(told, message):
    emb = fj.TokenEmbeddings.from_list(random_pool(3, 24, [1, 3, 8], 6))
    with pytest.raises(ValueError, match=message):
        fj.select(emb, n_samples=2, **told)


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
    emb = fj.TokenEmbeddings.from_list(pool(2))
    a, b = (fj.select(emb, n_samples=30) for _ in range(2))
    assert a.ranking.tobytes() == b.ranking.tobytes()
    assert a.gains.tobytes() == b.gains.tobytes()


def test_openblas_has_one_thread_from_the_first_selection_on():
    program = """if True:
        import numpy as np
        from threadpoolctl import threadpool_info, threadpool_limits
        import fisher_jax as fj
        from fisher_jax.design.precision import computing

        emb = fj.TokenEmbeddings.from_list([np.ones((2, 3), np.float32)] * 2)
        with computing(emb, 1.0):
            fj.select(emb, n_samples=1)
            print(*(i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"))
    """
    run = [sys.executable, "-c", program]
    env = os.environ | {"OPENBLAS_NUM_THREADS": "2"}
    threads = subprocess.run(run, capture_output=True, text=True, check=True, env=env).stdout
    assert {*threads.split()} == {"1"}
