"""Tables of a rule against its opponents: paired, corrected, and silent below five replicates."""

import numpy as np
import pytest

from experiments.report.comparisons import compared, comparisons, forest
from experiments.report.figures import dots
from experiments.report.statistics import holm, paired

DIFFERENCES = {"uniform": -0.1, "density": -0.0004, "ask_llm": 0.0}  # fisher's, planted


def rows(replicates, n=100, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for k in range(replicates):
        pool = rng.normal(5, 0.3)
        for name, less in {"fisher": 0.0, **DIFFERENCES}.items():
            nll = pool - less + rng.normal(0, 0.001)
            at = {"setting": {"corpus": "shakespeare"}, "replicate": k, "selector": name}
            found.append(at | {"equal": "tokens", "n": n, "held_out_nll": nll})
    return found


def test_a_table_is_one_family_of_tests():
    given = rows(10) + rows(3, n=500)
    family = comparisons(given, "fisher", [*DIFFERENCES], "corpus")
    at_100 = [of for of in family if of.where["n"] == 100]
    for of in at_100:
        own, other = (
            [r for r in given if (r["selector"], r["n"]) == (name, 100)]
            for name in ("fisher", of.opponent)
        )
        assert of.found == paired(own, other, "held_out_nll")
        assert of.found.mean == pytest.approx(DIFFERENCES[of.opponent], abs=0.002)
    assert [of.p for of in at_100] == holm([of.found.p for of in at_100])
    assert at_100[0].p > at_100[0].found.p  # corrected for three
    assert all(np.isnan(of.p) for of in family if of.where["n"] == 500)


def test_what_is_told_apart_is_bold_and_few_replicates_have_no_interval():
    given = rows(10) + rows(3, n=500) + rows(1, n=1000)
    family = comparisons(given, "fisher", ["uniform", "ask_llm", "nobody"], "corpus")
    head, lines = compared(family, "fisher", "corpus")
    assert head == ["fisher less", "at", "shakespeare"]
    cells = {(name, at): text for name, at, text in lines}
    assert cells["uniform", "equal tokens, n = 100"].startswith("**-0.10")
    assert cells["ask_llm", "equal tokens, n = 100"].startswith(("+0.00", "-0.00"))
    assert cells["uniform", "equal tokens, n = 500"].endswith("(3 replicates, no interval)")
    assert cells["uniform", "equal tokens, n = 1000"].endswith("(1 replicate, no interval)")
    assert {text for (name, _), text in cells.items() if name == "nobody"} == {"not run"}


def test_a_forest_has_every_difference_that_was_run():
    family = comparisons(rows(6), "fisher", ["uniform", "nobody"], "corpus")
    panels = forest(family, "corpus")
    assert [*panels] == ["shakespeare"]
    ((at, e),) = panels["shakespeare"].items()
    assert at == "uniform, equal tokens, n = 100" and tuple(e) == family[0].found[:2]
    assert dots(panels, "nats", {"0": 0}).axes
