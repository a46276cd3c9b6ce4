import inspect
import itertools

import numpy as np

import fisher_jax as fj
from fisher_jax.design.budget import Budget
from fisher_jax.selectors.registry import SELECTORS
from fisher_jax.selectors.scored import MODEL_SELECTORS
from fisher_jax.util.streams import stream

DRAWING = [
    name
    for name, selector in (SELECTORS | MODEL_SELECTORS).items()
    if "seed" in inspect.signature(selector._rule).parameters
]


def test_a_stream_is_fixed_by_its_seed_and_its_name():
    first = stream(3, "uniform").random(4)
    np.testing.assert_array_equal(stream(3, "uniform").random(4), first)
    for other in (stream(4, "uniform"), stream(3, "density"), np.random.default_rng(3)):
        assert not np.isin(other.random(4), first).any()


def test_no_two_rules_share_draws(emb, monkeypatch):
    """Every generator that a rule makes begins with other numbers than those of all other rules."""
    real, begun = np.random.default_rng, []

    def spied(seed):
        begun.append(real(seed).random())
        return real(seed)

    monkeypatch.setattr(np.random, "default_rng", spied)
    extra = {
        "losses": np.ones(len(emb)),
        "probabilities": np.full((len(emb.tokens), 2), 0.5),
    }
    owner = {}
    for name in DRAWING:
        begun.clear()
        selector = (SELECTORS | MODEL_SELECTORS)[name]
        needed = {need: extra[need] for need in selector.needs}
        selector.rank(emb, Budget.of(emb, n_samples=10), seed=5, **needed)
        assert begun, f"{name} takes a seed and makes no stream of it"
        for number in begun:
            assert owner.setdefault(number, name) == name
    assert {"uniform", "density", "sensitivity", "prototypes_easy", "fisher_random"} <= {*DRAWING}


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
