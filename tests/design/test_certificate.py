import itertools

import numpy as np
import pytest

import fisher_jax as fj
from tests.helpers.references import f, random_pool


@pytest.mark.parametrize("budget", [{"n_samples": 3}, {"token_budget": 6}])
def test_no_selection_has_more_than_the_certificate_allows(budget):
    examples = random_pool(4, 9, [1, 2, 3], 4)
    emb = fj.TokenEmbeddings.from_list(examples)
    costs = np.ones(9) if "n_samples" in budget else emb.lengths
    total = next(iter(budget.values()))
    sets = (s for k in range(1, 7) for s in itertools.combinations(range(9), k))
    best = max(f(examples, [*s], 1.0) for s in sets if costs[[*s]].sum() <= total)
    greedy = fj.select(emb, **budget)
    for ranking in (greedy.ranking, [int(np.argmin(emb.lengths))]):
        got = f(examples, [*ranking], 1.0)
        share = fj.certify(emb, ranking, **budget)
        assert 0 < share <= got / best * (1 + 1e-5)
    assert fj.certify(emb, greedy.ranking, **budget) > 0.6


def test_all_rows_are_the_best():
    emb = fj.TokenEmbeddings.from_list(random_pool(4, 9, [1, 2, 3], 4))
    assert fj.certify(emb, range(9), n_samples=9) == 1


def test_where_nothing_is_worth_anything_all_of_it_is_chosen():
    nothing = fj.TokenEmbeddings.from_list([np.zeros((2, 3), np.float32)] * 4)
    assert fj.certify(nothing, [0], n_samples=1) == 1
