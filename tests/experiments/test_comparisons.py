"""Tables of a rule against its opponents: paired, corrected, and silent below five replicates."""

import numpy as np
import pytest

from experiments.report.comparisons import compared, panels

DIFFERENCES = {"uniform": -0.1, "density": -0.0004, "ask_llm": 0.0}  # fisher's, planted


def rows(replicates, n=100, seed=0):
    rng = np.random.default_rng(seed)
    planted = []
    for k in range(replicates):
        pool = rng.normal(5, 0.3)
        for name, less in {"fisher": 0.0, **DIFFERENCES}.items():
            nll = pool - less + rng.normal(0, 0.001)
            at = {"setting": {"corpus": "shakespeare"}, "replicate": k, "selector": name}
            planted.append(at | {"equal": "tokens", "n": n, "held_out_nll": nll})
    return planted


def test_what_is_told_apart_is_bold_and_few_replicates_have_no_interval():
    given = rows(10) + rows(3, n=500) + rows(1, n=1000)
    head, _, *lines = compared(
        given, "fisher", ["uniform", "ask_llm", "nobody"], "corpus"
    ).splitlines()
    assert head == "| fisher less | at | shakespeare |"
    cells = {tuple(line[2:-2].split(" | ")[:2]): line[2:-2].split(" | ")[2] for line in lines}
    assert cells["uniform", "equal tokens, n = 100"].startswith("**-0.10")
    assert cells["ask_llm", "equal tokens, n = 100"].startswith(("+0.00", "-0.00"))
    assert cells["uniform", "equal tokens, n = 500"].endswith("(3 replicates, no interval)")
    assert cells["uniform", "equal tokens, n = 1000"].endswith("(1 replicate, no interval)")
    assert {text for (name, _), text in cells.items() if name == "nobody"} == {"not run"}


def test_panels_have_every_difference_with_an_interval():
    given = rows(6) + rows(3, n=500)
    ((title, panel),) = panels(given, "fisher", ["uniform", "nobody"], "corpus")
    assert title == "shakespeare\nequal tokens" and [*panel] == ["n = 100"]
    assert panel["n = 100"]["uniform"].mean == pytest.approx(-0.1, abs=0.002)
    assert [*panel["n = 100"]] == ["uniform"]
