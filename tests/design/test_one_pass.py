"""The sieve: one pass with a threshold that falls, beside the same rule a row at a time."""

import hashlib

import numpy as np
import pytest

import fisher_jax as fj
from fisher_jax.data.embedding_store import EmbeddingStore
from fisher_jax.design import embeddings, one_pass
from fisher_jax.util.streams import stream
from tests.helpers.references import f, random_pool
from tests.helpers.sources import Reader

N = 120
EXAMPLES = random_pool(0, N, [3], 6)  # of one length, so that one program evaluates all
sieve = fj.SELECTORS["fisher_sieve"]


@pytest.fixture(scope="module")
def pool():
    return fj.TokenEmbeddings.from_list(EXAMPLES)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The same on disk, in two shards."""
    store = EmbeddingStore(tmp_path_factory.mktemp("states"))
    keys = [hashlib.sha256(str(i).encode()).digest() for i in range(N)]
    for half in (slice(0, N // 2), slice(N // 2, N)):
        store.add(keys[half], fj.TokenEmbeddings.from_list(EXAMPLES[half]))
    return store.view(keys)


def row_by_row(seed, n, first, alpha=0.15):
    """What is chosen of rows of equal costs: each gain given all that are chosen before it."""
    ranking, failed = [], 0
    order = stream(seed, "fisher_sieve").permutation(N)
    threshold = max(f(EXAMPLES, [i], 1.0) for i in order[:first])
    for seen, i in enumerate(order):
        gain = f(EXAMPLES, [*ranking, i], 1.0) - f(EXAMPLES, ranking, 1.0)
        if gain >= threshold or N - seen <= n - len(ranking):
            ranking.append(i)
            failed = 0
        else:
            failed += 1
            if failed * (n - len(ranking)) >= np.log(1 / alpha) * (N - seen - 1):
                threshold, failed = 0.8 * threshold, 0
        if len(ranking) == n:
            return ranking
    return ranking


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("tokens", "first"), [(1 << 14, N), (60, 19)], ids=["whole", "pieces"])
def test_it_is_the_rule_a_row_at_a_time(seed, tokens, first, pool, monkeypatch, small_buckets):
    monkeypatch.setattr(embeddings, "READ_AT_ONCE", tokens)
    found = sieve(pool, n_samples=14, seed=seed)
    assert found.ranking.tolist() == row_by_row(seed, 14, first)
    np.testing.assert_allclose(found.gains, fj.evaluate(pool, found.ranking).gains, rtol=1e-4)
    few = sieve(pool, token_budget=42, seed=seed)  # a row costs 3
    assert few.ranking.tolist() == sieve(pool, n_samples=14, seed=seed).ranking.tolist()


def test_every_row_is_read_once_from_the_disk(stored, monkeypatch, small_buckets):
    monkeypatch.setattr(embeddings, "READ_AT_ONCE", 60)
    reader = Reader(stored)
    found = sieve(reader, n_samples=14, alpha=0.6)  # falls fast: the budget is soon spent
    assert reader.n_read.max() == 1 and N / 2 < reader.n_read.sum() < N
    assert found.ranking.tolist() == row_by_row(0, 14, 19, alpha=0.6)


def test_it_keeps_most_of_the_exact_information(pool):
    exact = fj.select(pool, n_samples=14).log_det
    shares = [sieve(pool, n_samples=14, seed=seed).log_det / exact for seed in range(4)]
    uniform = fj.SELECTORS["uniform"](pool, n_samples=14).log_det / exact
    assert uniform < 0.9 < np.mean(shares) <= 1 + 1e-6 and min(shares) > uniform, shares


def test_the_root_is_computed_anew_now_and_then(pool, monkeypatch):
    expected, calls, fresh_root = sieve(pool, n_samples=14), [], one_pass.fresh_root
    monkeypatch.setattr(one_pass, "REFRESH", 5)
    monkeypatch.setattr(
        one_pass, "fresh_root", lambda *a: calls.append(len(a[1])) or fresh_root(*a)
    )
    np.testing.assert_array_equal(sieve(pool, n_samples=14).ranking, expected.ranking)
    assert calls == [5, 10]


@pytest.mark.parametrize("name", ["epsilon", "alpha"])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_out_of_range_is_refused(pool, name, share):
    with pytest.raises(ValueError, match=f"{name} must be above 0"):
        sieve(pool, n_samples=2, **{name: share})


def test_caps_of_groups_are_refused(pool):
    with pytest.raises(ValueError, match="keeps to no caps of groups"):
        sieve(pool, n_samples=2, groups=[0] * N, group_cap=2)
