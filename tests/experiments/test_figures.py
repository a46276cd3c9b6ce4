"""RESULTS.md, its figures and tables come from results/ alone."""

import numpy as np
import pytest
from scipy import stats

from experiments.report import figures, runs
from experiments.report.main import render

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
    made = object.__new__(runs.Run)
    made.rows = ROWS
    return made


def test_results_are_what_the_committed_rows_say(monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "draw", lambda *args: None)
    monkeypatch.setattr(runs, "save", lambda *args: None)
    committed = (runs.ROOT / "RESULTS.md").read_text()
    assert render() == committed
    assert "SmolLM2-135M-**Instruct**, from the 4-bit GGUF (Q4_1)" in committed
    lines = committed.splitlines()
    shown = {line.split("(")[1].rstrip(")") for line in lines if line.startswith("![")}
    assert shown == {f"docs/figures/{path.name}" for path in runs.FIGURES.iterdir()}


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


def test_errors_and_slopes_against_an_option(run):
    rows = [
        row | {"setting": {"dim": d}, "max_logit": d * row["max_logit"]}
        for row in ROWS
        for d in (5, 20)
    ]
    run.rows = rows
    lines = run.errors("max_logit", ["uniform"], "dim", 100).splitlines()
    assert lines[0] == "| equal | selector | dim = 5 | dim = 20 |"
    assert lines[2].startswith("| examples | uniform | 1 ± ") and "| 4 ± " in lines[2]
    of = run.slopes_of("dim", 100)["max, equal tokens"]
    assert of["fisher"] == pytest.approx((1, 0), abs=1e-9)


def test_the_gap_is_of_replicates(run):
    run.rows = [
        {"setting": {}, "selector": "random", "n": 5, "replicate": k, "bound": b, "exact": 1.0}
        for k, bounds in enumerate(([2.0, 4.0], [5.0, 7.0]))
        for b in bounds
    ]
    half = stats.t.ppf(0.975, 1) * 1.5
    assert run.gaps().splitlines()[-1] == f"| random | 3.5 ± {half:.1f} of 4 |"  # 4.5 to even


def test_every_kind_of_figure_is_drawn(tmp_path):
    figures.draw_all(ROWS, tmp_path)
    figures.draw_all([row | {"seconds": 1.0} for row in ROWS], tmp_path)
    random = [row | {"selector": "random"} for row in ROWS if row["selector"] == "uniform"]
    figures.draw_all([row | {"bound": 1.0, "exact": 2.0} for row in ROWS + random], tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"max_logit.png", "mean_logit.png", "seconds.png", "bound.png"}


def test_a_figure_shows_means_intervals_and_ratios_to_uniform():
    figure = figures.draw(ROWS, "max_logit")
    above, _, below, _ = figure.axes
    for axes, expected in ((above, 0.8 * 2 / np.sqrt([10, 100])), (below, [-20, -20])):
        (line,) = (c for c in axes.containers if c.get_label() == "fisher")
        np.testing.assert_allclose(line[0].get_ydata(), expected, rtol=1e-9)
    looks = [figures.style(name, k) for k, name in enumerate("abcdefghijkl")]
    assert len({look["marker"] for look in looks}) == len(looks)
