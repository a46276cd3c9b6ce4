"""Two rounds of greedy: the parts, what is kept of the exact f, and one program for all parts."""

import subprocess
import sys

import numpy as np
import pytest

import fisher_jax as fj
from fisher_jax.design import two_rounds
from fisher_jax.util.streams import stream
from tests.helpers.compiling import with_devices
from tests.helpers.references import algorithm_1, f, random_pool
from tests.helpers.sources import Reader

N = 120
EXAMPLES = random_pool(0, N, [1, 3], 6)
rule = fj.SELECTORS["fisher_in_parts"]


@pytest.fixture(scope="module")
def pool():
    return fj.TokenEmbeddings.from_list(EXAMPLES)


def parts_of(n, parts, seed):
    part = stream(seed, "fisher_in_parts").integers(parts, size=n)
    return [np.flatnonzero(part == k) for k in range(parts)]


def test_it_is_greedy_within_parts_and_then_among_what_they_chose(pool, monkeypatch):
    shapes, greedily = [], two_rounds.greedily
    monkeypatch.setattr(
        two_rounds,
        "greedily",
        lambda emb, *a, **k: shapes.append(np.sort(emb.lengths).tolist()) or greedily(emb, *a, **k),
    )
    monkeypatch.setattr(two_rounds, "PART_BYTES", 4 * 6 * 2 * N // 5)  # D = 6, 2 tokens a row
    reader, seen = Reader(pool), []
    found = rule(reader, n_samples=8, seed=2, on_progress=seen.append)
    chosen = []
    for rows in parts_of(N, 5, 2):
        own, _ = algorithm_1([EXAMPLES[i] for i in rows], 8, 1.0)
        chosen.extend(rows[own])
    union = np.sort(chosen)
    last, gains = algorithm_1([EXAMPLES[i] for i in union], 8, 1.0)
    np.testing.assert_array_equal(found.ranking, union[last])
    np.testing.assert_allclose(found.gains, gains, rtol=1e-4)
    assert reader.n_read.sum() == N + len(union) and reader.n_read.min() == 1
    assert all(s == shapes[0] for s in shapes[:5]) and shapes[5] != shapes[0]  # one program
    assert seen == [1, 2, 4, 5, 6, 8]


def test_the_best_of_both_rounds_counts():
    """Of the union greedy takes the slant row first, which is worse than the two others."""
    rows = [np.array([[1.45, 1.45]]), np.array([[2.0, 0]]), np.array([[0, 2.0]])]
    emb = fj.TokenEmbeddings.from_list(rows)
    seed = next(s for s in range(100) if any(p.tolist() == [1, 2] for p in parts_of(3, 2, s)))
    found = rule(emb, n_samples=2, parts=2, seed=seed)
    assert sorted(found.ranking.tolist()) == [1, 2]
    assert found.log_det == pytest.approx(f(rows, [1, 2], 1.0))


def test_budgets_of_tokens_and_caps_are_kept(pool):
    groups = np.arange(N) % 3
    found = rule(pool, token_budget=25, groups=groups, group_cap=9, parts=2)
    spent = np.bincount(groups[found.ranking], pool.lengths[found.ranking])
    assert spent.max() <= 9 and 22 < spent.sum() <= 25


def test_no_parts_are_refused(pool):
    with pytest.raises(ValueError, match="parts must be at least 1, got 0"):
        rule(pool, n_samples=2, parts=0)


PROGRAM = """if True:
    import jax
    import numpy as np
    import fisher_jax as fj
    from fisher_jax.design import two_rounds

    used, greedily = [], two_rounds.greedily

    def spied(*args, **kwargs):
        used.append(jax.numpy.zeros(()).device.id)
        return greedily(*args, **kwargs)

    two_rounds.greedily = spied
    rows = np.random.default_rng(0).standard_normal((60, 4), np.float32)
    found = fj.SELECTORS["fisher_in_parts"](rows, n_samples=5, parts=2)
    print(found.ranking.tolist(), sorted(used))
"""


def test_each_device_has_its_parts():
    run = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(run, env=with_devices(2), capture_output=True, text=True, timeout=200)
    rows = np.random.default_rng(0).standard_normal((60, 4), np.float32)
    on_one = rule(rows, n_samples=5, parts=2).ranking.tolist()
    assert done.stdout == f"{on_one} [0, 0, 1]\n", done.stderr
