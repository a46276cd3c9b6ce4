"""Intervals, Holm's correction, and the words that follow from them."""

import numpy as np
import pytest
from scipy import stats

from experiments.report.statistics import Estimate, against_uniform, estimate, percent, rejected
from experiments.report.tables import Compared, table
from experiments.report.verdicts import at_most, beats, near, told


def test_an_estimate_is_students():
    x = [0.1, 0.4, -0.1, 0.5, 0.3]
    e, of_scipy = estimate(x), stats.ttest_1samp(x, 0)
    low, high = of_scipy.confidence_interval()
    assert e[:2] == pytest.approx(((low + high) / 2, (high - low) / 2))
    assert e.p == pytest.approx(of_scipy.pvalue)
    alone = estimate([1.0])
    assert alone.mean == 1 and np.isnan(alone.half) and np.isnan(alone.p)
    assert estimate([1.0, 1.0]).p == 0 and np.isnan(estimate([0.0, 0.0]).p)


def test_rejection_compares_the_smallest_with_the_strictest():
    assert rejected([0.01, 0.04, 0.03, 0.005]) == [
        True,
        False,
        False,
        True,
    ]
    assert rejected([0.04]) == [True] and rejected([0.04, 0.04]) == [False, False]
    assert rejected([float("nan"), 0.04]) == [False, True]  # what can't be tested is no hypothesis
    assert rejected([0.03, 0.001]) == [True, True] and rejected([]) == []


def test_bold_in_a_table_is_of_the_whole_table():
    lines = [["a", Compared("1", 0.03)], ["b", Compared("2", 0.04)], ["c", "-"]]
    assert table(["x", "y"], lines).splitlines()[2:] == ["| a | 1 |", "| b | 2 |", "| c | - |"]
    assert table(["x", "y"], lines[:1]).endswith("| a | **1** |")


def test_percent_is_of_the_geometric_mean():
    assert percent(estimate(np.log([0.5, 2.0]))).mean == pytest.approx(0)
    rows = [
        {"setting": {}, "selector": s, "replicate": k, "e": e}
        for s, es in (("uniform", [1.0, 1.0]), ("a", [0.25, 1.0]))
        for k, e in enumerate(es)
    ]
    assert against_uniform(rows, "e")["a"].mean == pytest.approx(-50)


def test_verdicts_follow_the_intervals():
    def at(*means):
        ps = {-1: 0.001, 0: 0.5, 1: 0.001}
        return {f"at {k}": Estimate(m, 0.5, ps[m]) for k, m in enumerate(means)}

    assert beats(at(-1, -1)) == "holds"
    assert beats(at(-1, 0)) == "holds at 0 only"
    assert beats(at(-1, -1, 1)) == "holds at 0 and at 1, worse at 2"
    assert beats(at(0, 0), at(-1, -1)) == "only by length"
    assert beats(at(-1, 0), at(-1, -1)) == "only by length; at equal tokens at 0 only"
    for limit, verdict in ((2, "holds"), (0.0, "not shown"), (-2, "not")):
        assert at_most([Estimate(0.0, 1.0, 1.0)] * 2, limit) == verdict
    assert beats(at(0, 1), at(-1, -1)) == "only by length"
    assert beats(at(0, 1), at(-1, 0)) == "not: worse at 1"
    assert beats(at(0, 0), at(-1, 0)) == "not shown"
    assert told({"a": Estimate(-1, 0.9, 0.04), "b": Estimate(-1, 0.9, 0.04)}) == ([], [])
    assert near(Estimate(-0.5, 0.1), -0.45) and not near(Estimate(-0.5, 0.1), -0.3)
