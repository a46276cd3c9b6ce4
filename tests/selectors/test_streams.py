import itertools

import numpy as np

import fisher_jax as fj
from fisher_jax.design.budget import Budget
from fisher_jax.selectors import SELECTORS
from fisher_jax.util.streams import stream


def test_a_stream_is_fixed_by_its_seed_and_its_name():
    first = stream(3, "uniform").random(4)
    np.testing.assert_array_equal(stream(3, "uniform").random(4), first)
    for other in (stream(4, "uniform"), stream(3, "density"), np.random.default_rng(3)):
        assert not np.isin(other.random(4), first).any()


def test_no_two_rules_share_draws(choose, monkeypatch):
    """Every generator that a rule makes begins with other numbers than those of all other rules."""
    real, begun = np.random.default_rng, []

    def spied(seed):
        begun.append(real(seed).random())
        return real(seed)

    monkeypatch.setattr(np.random, "default_rng", spied)
    owner = {}
    for name in SELECTORS:
        begun.clear()
        choose(name, n_samples=10, seed=5)
        for number in begun:
            assert owner.setdefault(number, name) == name
    drawing = {"uniform", "density", "sensitivity", "prototypes_easy", "fisher_random", "badge"}
    assert drawing <= {*owner.values()}


def test_rules_of_equal_chances_pick_other_rows():
    """All rows are equally far from each other, so all three rules draw uniformly."""
    emb = fj.TokenEmbeddings.from_list(np.eye(200, dtype=np.float32)[:, None])
    budget, sensitive = Budget.of(emb, n_samples=40), {"losses": np.ones(200), "n_clusters": 1}
    picks = [
        SELECTORS[name].rank(emb, budget, seed=0, **(sensitive if name == "sensitivity" else {}))
        for name in ("uniform", "density", "sensitivity")
    ]
    for a, b in itertools.combinations(picks, 2):
        assert len(np.intersect1d(a, b)) < 20  # 8 by chance
