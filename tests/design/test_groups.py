"""Caps by group and qualities: the same choice by every method, and NumPy's in float64."""

import itertools

import numpy as np
import pytest

import fisher_jax as fj
from fisher_jax.design import Budget, take
from fisher_jax.design.budget import Purse
from fisher_jax.design.groups import quotas
from tests.design.test_streaming import Reader
from tests.helpers.references import N, f

GROUPS = ["web", "code", "books", "web"] * (N // 4)
QUALITY = np.random.default_rng(5).uniform(0, 2, N)
TERMS = {
    "caps": ({"n_samples": 12}, {"groups": GROUPS, "group_cap": 4}),
    "some caps": ({"n_samples": 12}, {"groups": GROUPS, "group_cap": {"web": 2, "code": 3}}),
    "equal tokens": ({"token_budget": 40}, {"groups": GROUPS, "group_cap": "equal"}),
    "quality": ({"n_samples": 12}, {"quality": QUALITY, "quality_weight": 0.7}),
    "quality by tokens": ({"token_budget": 40}, {"quality": QUALITY, "quality_weight": 3}),
    "both": (
        {"n_samples": 12},
        {"groups": GROUPS, "group_cap": "proportional", "quality": QUALITY},
    ),
}


def reference(examples, budget, caps, bonus):
    """Greedy in float64: gain and bonus by cost, within budget and caps."""
    in_tokens = "token_budget" in budget
    total = next(iter(budget.values()))
    costs = [len(x) if in_tokens else 1 for x in examples]
    chosen, left, room = [], total, dict(caps)
    while True:
        before = f(examples, chosen, 1.0)
        values = {
            i: (f(examples, [*chosen, i], 1.0) - before + bonus[i]) / costs[i]
            for i in range(len(examples))
            if i not in chosen and costs[i] <= min(left, room[GROUPS[i]])
        }
        if not values:
            return chosen
        chosen.append(max(values, key=values.__getitem__))
        left -= costs[chosen[-1]]
        room[GROUPS[chosen[-1]]] -= costs[chosen[-1]]


def caps_of(emb, budget, terms):
    cap = terms.get("group_cap", np.inf)
    names = ["web", "code", "books"]
    if cap == "equal":
        return {"web": 14, "code": 13, "books": 13}
    if cap == "proportional":
        return {"web": 6, "code": 3, "books": 3}
    return dict.fromkeys(names, np.inf) | (
        cap if isinstance(cap, dict) else dict.fromkeys(names, cap)
    )


@pytest.mark.parametrize("name", TERMS)
def test_every_method_chooses_as_float64_does(name, examples, emb, small_buckets):
    budget, terms = TERMS[name]
    bonus = np.asarray(terms.get("quality", np.zeros(N))) * terms.get("quality_weight", 1)
    expected = reference(examples, budget, caps_of(emb, budget, terms), bonus)
    lazy, naive = (fj.select(emb, **budget, **terms, method=m) for m in ("lazy", "naive"))
    streamed = fj.select(Reader(emb), **budget, **terms)
    for got in (lazy, naive, streamed):
        assert got.ranking.tolist() == expected
    # gains are information alone
    np.testing.assert_allclose(lazy.gains, fj.evaluate(emb, expected).gains, rtol=1e-4)
    assert lazy.log_det == pytest.approx(f(examples, expected, 1.0), rel=1e-4)


@pytest.mark.parametrize("cap", [2, "equal"])
def test_greedy_within_caps_keeps_its_half(examples, cap):
    few = fj.TokenEmbeddings.from_list(examples[:9])
    groups = [0, 0, 0, 0, 1, 1, 1, 2, 2]
    got = fj.select(few, n_samples=4, groups=groups, group_cap=cap)
    caps = {2: (2, 2, 2), "equal": (2, 1, 1)}[cap]
    best = max(
        f(examples, s, 1.0)
        for s in itertools.combinations(range(9), 4)
        if all(sum(groups[i] == g for i in s) <= caps[g] for g in range(3))
    )
    assert best / 2 <= got.log_det <= best * (1 + 1e-5)
    share = fj.certify(few, got.ranking, n_samples=4, groups=groups, group_cap=cap)
    assert share <= got.log_det / best * (1 + 1e-5)
    assert share >= fj.certify(few, got.ranking, n_samples=4)  # caps make the bound no looser


@pytest.mark.parametrize("weight", [0.5, 50.0])
def test_the_certificate_counts_qualities(examples, weight):
    few, told = examples[:9], {"quality": QUALITY[:9], "quality_weight": weight}

    def value(rows):
        return f(few, rows, 1.0) + weight * QUALITY[[*rows]].sum()

    emb = fj.TokenEmbeddings.from_list(few)
    best = max(map(value, itertools.combinations(range(9), 3)))
    worst = np.argsort(QUALITY[:9])[:3]
    for rows in (fj.select(emb, n_samples=3, **told).ranking, worst):
        assert fj.certify(emb, rows, n_samples=3, **told) <= value(rows) / best * (1 + 1e-5)
    assert fj.certify(emb, worst, n_samples=3, **told) < 0.9


def test_every_rule_within_a_budget_keeps_to_the_caps(emb):
    budget = Budget.of(emb, n_samples=9, groups=GROUPS, group_cap={"web": 2, "code": 4})
    for ranking in (
        take(budget, np.arange(N)),
        fj.SELECTORS["k_center"].rank(emb, budget),
        fj.SELECTORS["i_optimal"].rank(emb, budget),
    ):
        counts = {name: sum(GROUPS[i] == name for i in ranking) for name in ("web", "code")}
        assert len(ranking) == 9 and counts["web"] <= 2 and counts["code"] <= 4
    purse = Purse(budget)
    purse.buy(0)
    purse.buy(3)  # the second of the web
    assert not purse.is_open[[4, 7]].any() and purse.is_open[[1, 2]].all()


@pytest.mark.parametrize(
    ("sizes", "total", "quota", "caps"),
    [
        ([10, 10, 10], 10, "equal", [4, 3, 3]),
        ([2, 10, 10], 11, "equal", [2, 5, 4]),
        ([1, 2, 3], 6, "equal", [1, 2, 3]),
        ([5, 10, 15], 6, "proportional", [1, 2, 3]),
        ([1, 1, 2], 2, "proportional", [1, 0, 1]),
    ],
)
def test_quotas_share_the_budget_out(sizes, total, quota, caps):
    sizes = np.asarray(sizes, float)
    assert quotas(sizes, total, quota, whole=True).tolist() == caps
    parts = quotas(sizes, total, quota, whole=False)
    assert parts.sum() == pytest.approx(total) and (parts <= sizes).all()


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"groups": GROUPS}, "groups and group_cap go together"),
        ({"group_cap": 2}, "groups and group_cap go together"),
        ({"groups": GROUPS[1:], "group_cap": 2}, f"a label an example, {N}, got {N - 1}"),
        ({"groups": [[1]] * N, "group_cap": 2}, "groups must be strings or numbers, not lists"),
        ({"groups": GROUPS, "group_cap": "even"}, "a number, 'equal' or 'proportional'"),
        ({"groups": GROUPS, "group_cap": 2}, "for 12 examples, but `group_cap` allows 6"),
        ({"groups": GROUPS, "group_cap": 0}, "`group_cap=0` buys nothing"),
        ({"groups": GROUPS, "group_cap": {"wbe": 2}}, "names 'wbe', but the groups are web, code"),
        ({"groups": GROUPS, "group_cap": {"web": -1}}, "at least 0, got -1 for 'web'"),
        ({"quality": QUALITY[1:]}, f"one number an example, {N}"),
        ({"quality": -QUALITY}, "quality must be at least 0, example 0 has"),
        ({"quality": QUALITY * 1e39}, r"adds up to \S+e\+\d+, more than float32 holds"),
        (
            {"quality": QUALITY * 1e300, "quality_weight": 1e300},
            "adds up to inf, more than float32",
        ),
        ({"quality": QUALITY, "quality_weight": -1}, "quality_weight must be a finite number"),
    ],
)
def test_terms_that_cannot_be_are_refused(terms, message, emb):
    with pytest.raises(ValueError, match=message):
        fj.select(emb, n_samples=12, **terms)


def test_shares_are_of_the_rows_that_are_not_owned(emb):
    labels = ["a"] * 3 + ["b"] * (N - 3)
    got = fj.select(emb, n_samples=6, groups=labels, group_cap="equal", initial_subset=range(3))
    assert len(got.ranking) == 6 and got.ranking.min() >= 3
