"""Figures of an experiment from its results alone; readable in grey."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from experiments.results import Row
from experiments.statistics import Estimate, by_replicate, estimate, group
from fisher_jax.data import replacing

METRICS = {
    "max_logit": "maximum logit error",
    "mean_logit": "mean logit error",
    "held_out_nll": "held-out NLL a token (nats)",
}
STYLES = {
    "uniform": {"color": "black", "ls": "--", "marker": "o", "lw": 1.8},
    "fisher": {"color": "#1f4e79", "ls": "-", "marker": "s", "lw": 1.8},
    "fisher_per_token": {"color": "#1f4e79", "ls": ":", "marker": "D", "lw": 1.8},
}
MARKERS = "v^<>PX*phd1234"


def draw_all(rows: list[Row], folder: Path, prefix: str = "") -> None:
    """Every figure that the rows allow, as PNG files in a folder."""
    if not rows:
        return
    if "seconds" in rows[0]:
        save(run_time(rows), folder / f"{prefix}run_time.png")
    elif "bound" in rows[0]:
        save(information(rows), folder / f"{prefix}information.png")
    else:
        for metric in METRICS:
            if having := [row for row in rows if metric in row]:
                save(error_curves(having, metric), folder / f"{prefix}{metric}.png")


def error_curves(rows: Sequence[Row], metric: str) -> Figure:
    """Error against n with 95% intervals, a panel a setting and kind of budget."""
    panels = [
        (", ".join(filter(None, [name, f"equal {kind}"])), [r for r in own if r["equal"] == kind])
        for name, own in _by_setting(rows).items()
        for (kind,) in group(own, "equal")
    ]
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    width = 5.0 if columns <= 2 else 3.4
    figure, grid = plt.subplots(
        lines,
        columns,
        figsize=(width * columns + 2.2, 0.75 * width * lines),
        squeeze=False,
        layout="constrained",
    )
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, own) in zip(grid.flat, panels, strict=False):
        _curves(axes, own, metric)
        axes.set_title(title, fontsize=8)
        tokens = own[0]["equal"] == "tokens"
        axes.set_xlabel("n (tokens of n average rows)" if tokens else "n", fontsize=8)
    for axes_row in grid:
        axes_row[0].set_ylabel(METRICS[metric], fontsize=8)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    return figure


def run_time(rows: Sequence[Row]) -> Figure:
    """Seconds of each algorithm against n."""
    figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained")
    for k, ((name,), own) in enumerate(group(rows, "selector").items()):
        _line(axes, own, "seconds", name, {"color": str(0.25 * k), "marker": "so^"[k]})
    axes.set(xscale="log", yscale="log", xlabel="n chosen", ylabel="seconds")
    axes.legend(frameon=False, fontsize=8)
    return figure


def information(rows: Sequence[Row]) -> Figure:
    """Exact information against the bound, random subsets and selections, a panel a budget."""
    budgets = group(rows, "n")
    figure, grid = plt.subplots(
        1,
        len(budgets),
        figsize=(3.6 * len(budgets) + 1.6, 3.4),
        squeeze=False,
        layout="constrained",
    )
    for axes, ((n,), own) in zip(grid[0], budgets.items(), strict=True):
        own = [r for r in own if r["replicate"] == 0]
        random = [r for r in own if r["selector"] == "random"]
        axes.plot(*_columns(random), ".", color="0.75", label="random")
        rest = [r for r in own if r["selector"] != "random"]
        for k, row in enumerate(rest):
            style = {"color": "black", "marker": MARKERS[k % len(MARKERS)]}
            axes.plot(row["bound"], row["exact"], ls="", ms=6, label=row["selector"], **style)
        axes.set(title=f"n = {n}, equal {own[0]['equal']}", xlabel="bound (nats)")
    grid[0][0].set_ylabel("exact log det (nats)")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    return figure


def differences(panels: dict[str, dict[str, Estimate]]) -> Figure:
    """Held-out NLL less uniform's with 95% intervals, a line a selector, a panel a pool."""
    figure, grid = plt.subplots(
        1, len(panels), figsize=(3.2 * len(panels) + 1, 3.6), sharey=True, layout="constrained"
    )
    for axes, (title, of_selector) in zip(np.atleast_1d(grid), panels.items(), strict=True):
        names, at = [*of_selector], np.arange(len(of_selector))
        means, halves = np.array([*of_selector.values()]).T
        axes.errorbar(means, at, xerr=halves, fmt="o", color="#1f4e79", ms=4, capsize=2)
        axes.axvline(0, color="black", ls="--", lw=1)
        axes.set_yticks(at, names, fontsize=8)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("nats a token, left is better", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
    np.atleast_1d(grid)[0].invert_yaxis()
    return figure


def parts(of_selector: dict[str, tuple[Estimate, Estimate]]) -> Figure:
    """The advantage at equal examples as length part and content part, a bar each a selector."""
    figure, axes = plt.subplots(figsize=(6.4, 0.55 * len(of_selector) + 1.2), layout="constrained")
    at = np.arange(len(of_selector))
    for k, (label, color) in enumerate((("length", "0.75"), ("content", "#1f4e79"))):
        means, halves = np.array([two[k] for two in of_selector.values()]).T
        axes.barh(at + 0.36 * k, means, 0.36, xerr=halves, label=label, color=color, capsize=2)
    axes.axvline(0, color="black", lw=1)
    axes.set_yticks(at + 0.18, [*of_selector], fontsize=8)
    axes.set_xlabel("advantage over uniform at equal examples, nats a token", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize=8)
    return figure


def learning_curves(panels: dict[str, list[Row]]) -> Figure:
    """Held-out NLL against tokens, less that of uniform's first budget in the same replicate.

    Uniform is a line with 95% intervals, the others are a mark a budget. Budgets with at most
    half of the most replicates are left out.
    """
    figure, grid = plt.subplots(
        1, len(panels), figsize=(3.6 * len(panels) + 1.8, 3.4), squeeze=False, layout="constrained"
    )
    for axes, (title, rows) in zip(grid[0], panels.items(), strict=True):
        uniform = [r for r in rows if r["selector"] == "uniform"]
        most = max(map(len, group(rows, "selector", "equal", "n").values()))
        base = by_replicate(next(iter(group(uniform, "equal", "n").values())), "held_out_nll")
        for k, ((name,), own) in enumerate(group(rows, "selector").items()):
            points = sorted(
                (
                    float(np.mean([r["tokens"] for r in some])),
                    estimate(r["held_out_nll"] - base[r["replicate"]] for r in some),
                )
                for some in group(own, "equal", "n").values()
                if 2 * len(some) > most
            )
            style = {"color": "0.45", "marker": MARKERS[k % 14], "ls": ""} | STYLES.get(name, {})
            axes.errorbar(
                [x for x, _ in points],
                [e.mean for _, e in points],
                [e.half for _, e in points],
                label=name, ms=5, elinewidth=0.6, capsize=2,
                **(style if name == "uniform" else style | {"ls": ""}),
            )  # fmt: skip
        axes.axhline(0, color="black", lw=0.6)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("tokens trained on", fontsize=8)
        axes.tick_params(labelsize=8, which="both")
        axes.grid(alpha=0.25, which="both")
    grid[0][0].set_ylabel("held-out NLL less uniform's (nats a token)", fontsize=8)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    return figure


def _columns(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    return [r["bound"] for r in rows], [r["exact"] for r in rows]


def _by_setting(rows: Sequence[Row]) -> dict[str, list[Row]]:
    settings: dict[str, list[Row]] = {}
    for row in rows:
        name = ", ".join(f"{k} = {v}" for k, v in row["setting"].items())
        settings.setdefault(name, []).append(row)
    return settings


def _curves(axes: Axes, rows: Sequence[Row], metric: str) -> None:
    others = 0
    for (name,), own in group(rows, "selector").items():
        style = STYLES.get(name)
        if style is None:
            style = {"color": "0.55", "ls": "-", "lw": 0.9, "marker": MARKERS[others % 14]}
            others += 1
        _line(axes, own, metric, name, style)
    logarithmic = metric != "held_out_nll"
    axes.set(xscale="log", yscale="log" if logarithmic else "linear")
    axes.grid(alpha=0.25, which="both")
    ns = sorted({r["n"] for r in rows})
    axes.set_xticks(ns, [str(n) for n in ns])
    axes.set_xticks([], minor=True)
    if logarithmic:
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.yaxis.set_minor_formatter("{x:g}")
    axes.tick_params(labelsize=8, which="both")


def _line(axes: Axes, rows: Sequence[Row], metric: str, label: str, style: dict) -> None:
    points = {n: estimate(r[metric] for r in own) for (n,), own in group(rows, "n").items()}
    mean, half = np.array([[e.mean, e.half] for e in points.values()]).T
    axes.errorbar([*points], mean, half, label=label, ms=4, capsize=2, elinewidth=0.8, **style)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG in one step, and close the figure."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90)
    plt.close(figure)
