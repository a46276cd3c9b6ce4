"""RESULTS.md, its figures and tables come from results/ alone."""

import numpy as np
import pytest
from scipy import stats

from experiments import figures
from scripts import figures as script

ROWS = [
    {
        "setting": {"ridge": 1},
        "selector": selector,
        "equal": equal,
        "n": n,
        "replicate": replicate,
        "max_logit": factor * (1 + replicate) / np.sqrt(n),
        "mean_logit": (1 + replicate) / n,
    }
    for selector, factor in (("uniform", 1.0), ("fisher", 0.8))
    for equal in ("examples", "tokens")
    for n in (10, 100)
    for replicate in range(3)
]


@pytest.fixture
def run(monkeypatch):
    made = object.__new__(script.Run)
    made.rows = ROWS
    return made


def test_results_are_what_the_committed_rows_say(monkeypatch, tmp_path):
    monkeypatch.setattr(script, "draw_all", lambda *args, **kwargs: None)
    committed = (script.ROOT / "RESULTS.md").read_text()
    assert script.render() == committed
    for line in committed.splitlines():
        if line.startswith("!["):
            assert (script.ROOT / line.split("(")[1].rstrip(")")).exists()


def test_ratios_are_of_pairs(run):
    lines = run.ratios("max_logit", [10, 100]).splitlines()
    assert lines[0].startswith("| against uniform | examples, n = 10 | examples, n = 100 | tokens")
    assert lines[3] == "| fisher | **-20 ± 0 %** | **-20 ± 0 %** | **-20 ± 0 %** | **-20 ± 0 %** |"


def test_slopes_are_of_each_replicate(run):
    head, _, *lines = run.slopes().splitlines()
    assert head.startswith("| slope in n | max, equal examples | max, equal tokens | mean, equal")
    assert [cell.split(" ± ")[0] for cell in lines[0].split(" | ")[1:]] == ["-0.5"] * 2 + ["-1"] * 2
    by = run.slopes_by("ridge", ["uniform"]).splitlines()
    assert by[0] == "| slope in n | ridge = 1 |" and by[2].startswith("| uniform | -0.5 ± ")


def test_errors_are_means_with_intervals(run):
    lines = run.errors("max_logit", ["uniform", "fisher"]).splitlines()
    assert lines[0] == "| equal | selector | n = 10 | n = 100 |"
    half = stats.t.ppf(0.975, 2) / np.sqrt(3)  # of 1, 2, 3
    cells = [
        f"{f * 2 / np.sqrt(n):.3g} ± {f * half / np.sqrt(n):.1g}"
        for f in (1, 0.8)
        for n in (10, 100)
    ]
    assert lines[2] == f"| examples | uniform | {cells[0]} | {cells[1]} |"
    assert lines[5] == f"| tokens | fisher | {cells[2]} | {cells[3]} |"
    assert len(lines) == 6 and len(run.errors("max_logit", ["fisher"]).splitlines()) == 4


def test_every_kind_of_figure_is_drawn(tmp_path):
    figures.draw_all(ROWS, tmp_path, prefix="a_")
    seconds = [row | {"seconds": 1.0} for row in ROWS]
    figures.draw_all(seconds, tmp_path)
    bound = [row | {"bound": 1.0, "exact": 2.0} for row in ROWS]
    figures.draw_all(bound, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"a_max_logit.png", "a_mean_logit.png", "run_time.png", "information.png"}
