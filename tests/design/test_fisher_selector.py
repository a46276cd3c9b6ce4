"""`FisherSelector` beside scikit-learn, pandas and Arrow."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import fisher_jax as fj
from tests.helpers.references import random_pool


def test_fisher_selector_has_scikit_learns_manners():
    examples = random_pool(1, 10, [2, 4], 3)
    emb = fj.TokenEmbeddings.from_list(examples)
    rows = [{"text": str(i)} for i in range(10)]
    selector = fj.FisherSelector(n_samples=4)
    with pytest.raises(ValueError, match="not fitted"):
        selector.transform(rows)
    expected = fj.select(emb, n_samples=4)
    assert selector.fit(emb) is selector
    np.testing.assert_array_equal(selector.ranking_, expected.ranking)
    np.testing.assert_array_equal(selector.gains_, expected.gains)
    assert selector.log_det_ == expected.log_det
    assert selector.transform(rows) == [rows[i] for i in expected.ranking]
    paid = {"token_budget": 3, "costs": 1.0 + np.arange(len(emb)) % 3}
    by_cost = fj.select(emb, **paid).ranking
    np.testing.assert_array_equal(fj.FisherSelector(**paid).fit(emb).ranking_, by_cost)
    np.testing.assert_array_equal(selector.transform(np.arange(10)), expected.ranking)
    with pytest.raises(ValueError, match="9 rows, but the pool had 10"):
        selector.transform(rows[:9])
    with pytest.raises(ValueError, match="got a mapping"):
        selector.transform({str(i): i for i in range(10)})


def test_frames_and_tables_give_rows_by_position():
    emb = fj.TokenEmbeddings.from_list(random_pool(1, 10, [2, 4], 3))
    selector = fj.FisherSelector(n_samples=4).fit(emb)
    chosen = selector.ranking_.tolist()
    backwards = pd.Series(range(10), index=range(9, -1, -1))
    assert selector.transform(backwards).tolist() == chosen
    assert selector.transform(pd.DataFrame({0: backwards}))[0].tolist() == chosen
    assert selector.transform(pa.table({"x": range(10)}))["x"].to_pylist() == chosen


def test_groups_and_quality_of_the_examples_go_to_fit():
    emb = random_pool(1, 10, [2, 4], 3)
    of_rows = {"groups": list("ab" * 5), "quality": np.arange(10) / 4}
    options = {"n_samples": 4, "group_cap": {"a": 1}, "quality_weight": 2.0}
    expected = fj.select(emb, **options, **of_rows).ranking
    assert sorted(expected) != sorted(fj.select(emb, n_samples=4).ranking)
    selector = fj.FisherSelector(**options)
    np.testing.assert_array_equal(selector.fit(emb, **of_rows).ranking_, expected)
    told = {f"fisherselector__{name}": values for name, values in of_rows.items()}
    chosen = make_pipeline(FunctionTransformer(), selector).fit_transform(emb, **told)
    for x, i in zip(chosen, expected, strict=True):
        np.testing.assert_array_equal(x, emb[i])
    with pytest.raises(ValueError, match="groups and group_cap go together"):
        selector.fit(emb, quality=of_rows["quality"])
    with pytest.raises(ValueError, match=r"quality_weight=2\.0 goes with quality"):
        selector.fit(emb, groups=of_rows["groups"])


def test_fisher_selector_can_be_cloned():
    selector = clone(fj.FisherSelector(3, group_cap="equal").set_params(method="naive"))
    assert repr(selector) == "FisherSelector(n_samples=3, method='naive', group_cap='equal')"
    with pytest.raises(ValueError, match="no argument 'k'; it has n_samples"):
        selector.set_params(k=3)


def test_the_chosen_rows_of_a_dataset_are_one(emb):
    datasets = pytest.importorskip("datasets", reason="needs: pip install -e '.[data]'")
    selector = fj.FisherSelector(3).fit(emb)
    rows = datasets.Dataset.from_dict({"i": list(range(len(emb)))})
    chosen = selector.transform(rows)
    assert isinstance(chosen, datasets.Dataset) and chosen["i"][:] == selector.ranking_.tolist()
