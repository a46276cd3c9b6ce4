"""Tables and figures of a softmax run, from planted rows."""

import numpy as np
import pytest
from scipy import stats

from experiments.report import figures
from experiments.report.forest import forest, panels_of
from experiments.report.information_runs import InformationRun, RemediesRun, RuntimeRun
from experiments.report.runs import Run
from experiments.report.statistics import Estimate

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


def of_rows(rows, kind=Run):
    made = object.__new__(kind)
    made.rows = rows
    return made


@pytest.fixture
def run():
    return of_rows(ROWS)


def test_ratios_are_of_pairs(run):
    lines = run.ratios("max_logit", 10, 100).splitlines()
    assert lines[0].startswith("| against uniform | examples, n = 10 | examples, n = 100 | tokens")
    assert lines[2] == "| fisher | **-20 ± 0 %** | **-20 ± 0 %** | **-20 ± 0 %** | **-20 ± 0 %** |"


def test_slopes_are_of_each_replicate(run):
    head, _, *lines = run.slopes().splitlines()
    assert head.startswith("| slope in n | max error, equal examples | max error, equal tokens |")
    assert [cell.split(" ± ")[0] for cell in lines[0].split(" | ")[1:]] == ["-0.5"] * 2 + ["-1"] * 2
    by = run.slopes_by("ridge", ["uniform"], "tokens").splitlines()
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
    of = run.slopes_of("dim", 100)["max error, equal tokens"]
    assert of["fisher"][:2] == pytest.approx((1, 0), abs=1e-9)


def test_the_gap_is_of_replicates():
    rows = [
        {"setting": {}, "selector": "random", "n": 5, "replicate": k, "bound": b, "exact": 1.0}
        for k, bounds in enumerate(([2.0, 4.0], [5.0, 7.0]))
        for b in bounds
    ]
    half = stats.t.ppf(0.975, 1) * 1.5
    assert (
        of_rows(rows, InformationRun).gaps().splitlines()[-1]
        == f"| random | 3.5 ± {half:.1f} of 4 |"
    )  # 4.5 to even


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


def test_budgets_are_the_nearest_that_were_run(run):
    assert run.near(12, 60, 5000) == [10, 100]


def test_a_forest_has_a_panel_a_kind_and_full_marks_where_a_difference_is_told_apart():
    noisy = [
        row | {"max_logit": row["max_logit"] * (1 + 0.5 * (-1) ** row["replicate"])}
        if row["selector"] == "fisher" and row["equal"] == "tokens"
        else row
        for row in ROWS
    ]
    panels = panels_of(noisy, "max_logit", [10, 100])
    assert list(panels) == ["ridge = 1\nequal examples", "ridge = 1\nequal tokens"]
    assert panels["ridge = 1\nequal examples"]["n = 10"]["fisher"].mean == pytest.approx(-20)
    assert list(panels_of(ROWS, "max_logit", [10], ["ridge"])) == ["equal examples", "equal tokens"]
    left, right = forest(panels, "%", {"uniform": 0}).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["fisher"]
    for axes, color in ((left, "black"), (right, "white")):
        (mark, *_), *_ = axes.containers
        assert mark.get_markerfacecolor() == color


def test_marks_of_untested_estimates_are_full():
    panels = {"slopes": {"slope": {"uniform": Estimate(-0.5, 0.1, 0.9)}}}
    (axes,) = forest(panels, "slope", {"theory": -0.5, "paper": -0.3}, tested=False).axes
    assert axes.containers[0][0].get_markerfacecolor() == "black"


def test_speed_ups_and_what_remedies_keep_are_ratios_of_means():
    def rows(metric, **means):
        return [
            {"setting": {}, "selector": s, "n": 5, "replicate": k, metric: m * (1 + k)}
            for s, m in means.items()
            for k in range(2)
        ]

    seconds = rows("seconds", algorithm_1=8.0, algorithm_2=2.0, fisher_jax=1.0)
    for row in seconds:
        if row["selector"] == "fisher_jax":
            row |= {"shared": 1.0, "same_in_float64": True}
    run = of_rows(seconds, RuntimeRun)
    assert run.speed_up(5, "algorithm_1", "algorithm_2") == 4
    last = run.seconds().splitlines()[-1]
    assert "(8.0x)" in last and last.endswith("100.0 % | yes |")
    remedies = of_rows(rows("e", uniform=4.0, fisher=2.0, mixed=3.0), RemediesRun)
    assert remedies.kept("e").splitlines()[-1] == "| mixed | 50 % |"
