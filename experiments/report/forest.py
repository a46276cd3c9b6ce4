"""Estimates with their 95% intervals, a line a selector: forest plots, and bars of two parts."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.report.statistics import Estimate, against_uniform, group, rejected
from experiments.run.results import Row

Panel = dict[str, dict[str, Estimate]]  # mark (a budget, an opponent): selector: estimate
MARKS = "osD^vP"
SHADES = ["black", "#1f4e79", "0.5", "#a0480a", "0.35", "0.65"]


def panels_of(
    rows: Sequence[Row], metric: str, ns: Sequence[int], hidden: Sequence[str] = ()
) -> dict[str, Panel]:
    """Differences to uniform in percent: a panel a setting and kind of budget, a mark a budget.

    Titles say the settings but for `hidden` options.
    """
    panels: dict[str, Panel] = {}
    keys = list(dict.fromkeys(k for row in rows for k in row["setting"]))
    for (kind, *values), own in group(rows, "equal", *keys).items():
        named = [(k, v) for k, v in zip(keys, values, strict=True) if v is not None]
        told = [f"{k} = {v}" for k, v in named if k not in hidden]
        panel = {f"n = {n}": against_uniform(own, metric, n=n) for n in ns}
        if any(panel.values()):
            panels["\n".join([", ".join(told), f"equal {kind}"]).strip()] = panel
    return panels


def forest(
    panels: dict[str, Panel],
    label: str,
    references: dict[str, float],
    columns: int = 4,
    tested: bool = True,
) -> Figure:
    """A panel a title; full marks differ from zero after Holm's correction within the figure.

    Args:
        panels: title: mark: selector: estimate.
        label: of the horizontal axis.
        references: values to compare with, drawn as lines.
        columns: of panels.
        tested: whether zero is a hypothesis; if not all marks are full.
    """
    names = list(dict.fromkeys(n for panel in panels.values() for of in panel.values() for n in of))
    marks = list(dict.fromkeys(mark for panel in panels.values() for mark in panel))
    every = [e for panel in panels.values() for of in panel.values() for e in of.values()]
    full = iter(rejected([e.p for e in every]) if tested else [True] * len(every))
    columns = min(columns, len(panels))
    lines = -(-len(panels) // columns)
    tall = (0.07 + 0.1 * len(marks)) * len(names) + 0.7
    figure = Figure(figsize=(2.6 * columns + 1.9, tall * lines + 0.3), layout="constrained")
    grid = np.ravel(figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False))
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, panel) in zip(grid, panels.items(), strict=False):
        for mark, of_selector in panel.items():
            k = marks.index(mark)
            shift = 0.8 * ((k + 0.5) / len(marks) - 0.5)
            for name, e in of_selector.items():
                _mark(axes, e, names.index(name) + shift, k, next(full))
        for k, value in enumerate(references.values()):
            axes.axvline(value, color="black", ls=("--", ":")[k], lw=0.9)
        axes.set_title(title, fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25, axis="x")
        for k in range(1, len(names)):
            axes.axhline(k - 0.5, color="0.9", lw=0.6, zorder=0)
    grid[0].set_ylim(len(names) - 0.5, -0.5)
    figure.supxlabel(label, fontsize=8)
    handles = [
        grid[0].plot([], [], ls="", marker=MARKS[k], color=SHADES[k])[0] for k in range(len(marks))
    ]
    dashes = [
        grid[0].plot([], [], color="black", ls=("--", ":")[k])[0] for k in range(len(references))
    ]
    figure.legend(
        [*handles, *dashes],
        [*marks, *references],
        loc="outside right upper",
        fontsize=7,
        frameon=False,
    )
    return figure


def parts(of_selector: Mapping[str, Sequence[Estimate]]) -> Figure:
    """The advantage at equal examples as length part and content part, a bar each a selector."""
    figure = Figure(figsize=(6.4, 0.55 * len(of_selector) + 1.2), layout="constrained")
    axes = figure.subplots()
    at = np.arange(len(of_selector))
    for k, (label, color) in enumerate((("length", "0.75"), ("content", "#1f4e79"))):
        means = [two[k].mean for two in of_selector.values()]
        halves = [two[k].half for two in of_selector.values()]
        axes.barh(at + 0.36 * k, means, 0.36, xerr=halves, label=label, color=color, capsize=2)
    axes.axvline(0, color="black", lw=1)
    axes.set_yticks(at + 0.18, [*of_selector], fontsize=8)
    axes.set_xlabel("advantage over uniform at equal examples, nats a token", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize=8)
    return figure


def _mark(axes: Axes, e: Estimate, at: float, k: int, full: bool) -> None:
    color = SHADES[k]
    axes.errorbar(
        e.mean, at, xerr=e.half, fmt=MARKS[k], color=color, mfc=color if full else "white",
        ms=3.5, elinewidth=0.8, capsize=1.5,
    )  # fmt: skip
