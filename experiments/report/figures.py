"""Figures of an experiment from its results alone; readable in grey."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from experiments.report.statistics import (
    Estimate,
    by_replicate,
    estimate,
    group,
    log_ratio,
    percent,
)
from experiments.run.results import Row
from fisher_jax.util.files import replacing

DPI = 80
METRICS = {
    "max_logit": "maximum logit error",
    "mean_logit": "mean logit error",
    "held_out_nll": "held-out NLL a token (nats)",
}
STYLES = {
    "uniform": {"color": "black", "ls": "--", "marker": "o", "lw": 2.2, "zorder": 3},
    "fisher": {"color": "#1f4e79", "ls": "-", "marker": "s", "lw": 2.2, "zorder": 3},
    "fisher_per_token": {"color": "#1f4e79", "ls": ":", "marker": "D", "lw": 2.2, "zorder": 3},
}
MARKERS = "v^<>PX*phd+x12"
DASHES = ["-", (0, (6, 2)), (0, (1, 1.5)), (0, (6, 1.5, 1, 1.5))]
SHADES = ["0.25", "#a0480a", "0.55", "#5fb8a8", "0.75"]  # rising in grey too


def draw_all(rows: list[Row], folder: Path) -> None:
    """Every figure that the rows allow, as PNG files in a folder."""
    for metric in ("seconds", "bound", "lemma", *METRICS):
        if having := [row for row in rows if metric in row]:
            save(draw(having, metric), folder / f"{metric}.png")


def draw(rows: Sequence[Row], metric: str, x: str = "n") -> Figure:
    """The figure of a metric, those of `bound` and `lemma` beside the exact information."""
    special = {"seconds": run_time, "bound": information, "lemma": lemma}
    return special[metric](rows) if metric in special else error_curves(rows, metric, x)


def error_curves(rows: Sequence[Row], metric: str, x: str = "n") -> Figure:
    """Error against n or an option, 95% intervals, a panel a setting and kind of budget.

    One setting's errors have their ratios to uniform's below them.
    """
    panels = [
        (", ".join(filter(None, [name, f"equal {kind}"])), own)
        for name, of_setting in _by_setting(rows, x).items()
        for (kind,), own in group(of_setting, "equal").items()
    ]
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    ratios = len(panels) <= 2 and any(r["selector"] == "uniform" for r in rows)
    width = 5.0 if columns <= 2 else 3.4
    figure = _figure(width * columns + 2.2, 0.75 * width * (lines + ratios))
    grid = figure.subplots(lines + ratios, columns, squeeze=False)
    for axes in grid[:lines].flat[len(panels) :]:
        axes.set_visible(False)
    for k, (axes, (title, own)) in enumerate(zip(grid.flat, panels, strict=False)):
        _curves(axes, own, metric, x)
        axes.set_title(title, fontsize=8)
        below = [axes]
        if ratios:
            below.append(grid[1][k])
            _ratios(grid[1][k], own, metric, x)
        tokens = x == "n" and own[0]["equal"] == "tokens"
        below[-1].set_xlabel("n (tokens of n average rows)" if tokens else x, fontsize=8)
    for axes in grid[:lines, 0]:
        axes.set_ylabel(METRICS[metric], fontsize=8)
    if ratios:
        grid[1][0].set_ylabel("the same against uniform's (%)", fontsize=8)
    _legend(figure, grid[0][0])
    return figure


def run_time(rows: Sequence[Row]) -> Figure:
    """Seconds of each algorithm against n."""
    figure = _figure(5, 3.4)
    axes = figure.subplots()
    for k, ((name,), own) in enumerate(group(rows, "selector").items()):
        points = _means(own, "seconds", "n")
        _line(axes, points, name, {"color": str(0.25 * k), "marker": "so^"[k]})
    axes.set(xscale="log", yscale="log", xlabel="n chosen", ylabel="seconds")
    axes.legend(frameon=False, fontsize=8)
    return figure


def information(rows: Sequence[Row]) -> Figure:
    """Exact information against the bound, both less random subsets' mean in the same replicate.

    Random subsets are points, selections means with 95% intervals; a panel a budget.
    """
    budgets = group(rows, "n")
    figure = _figure(3.6 * len(budgets) + 1.6, 3.4)
    grid = figure.subplots(1, len(budgets), squeeze=False)
    for axes, ((n,), own) in zip(grid[0], budgets.items(), strict=True):
        base = {
            replicate: np.mean([[r["bound"], r["exact"]] for r in some], axis=0)
            for (selector, replicate), some in group(own, "selector", "replicate").items()
            if selector == "random"
        }
        for k, ((name,), some) in enumerate(group(own, "selector").items()):
            bound, exact = np.transpose(
                [[r["bound"], r["exact"]] - base[r["replicate"]] for r in some]
            )
            if name == "random":
                axes.plot(bound, exact, ".", color="0.85", ms=3, label=name, zorder=0)
                continue
            x, y = estimate(bound), estimate(exact)
            line = style(name, k - 1) | {"ls": "", "ms": 6}
            axes.errorbar(x.mean, y.mean, y.half, x.half, label=name, elinewidth=0.6, **line)
        axes.set_title(f"n = {n}, equal {own[0]['equal']}", fontsize=9)
        axes.set_xlabel("bound less random subsets' (nats)", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
    grid[0][0].set_ylabel("exact log det less random subsets' (nats)", fontsize=8)
    _legend(figure, grid[0][0])
    return figure


def lemma(rows: Sequence[Row]) -> Figure:
    """Lemma 3.1's bound (dotted) and the exact information (solid) against n, a panel a setting."""
    panels = _by_setting(rows, "n")
    figure = _figure(2.6 * len(panels) + 1.8, 3.2)
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)
    for axes, (title, own) in zip(grid[0], panels.items(), strict=True):
        for k, ((name,), some) in enumerate(group(own, "selector").items()):
            for metric, what, dashes in (("log_det", "exact", "-"), ("lemma", "Lemma 3.1", ":")):
                line = style(name, k) | {"ls": dashes}
                _line(axes, _means(some, metric, "n"), f"{name}, {what}", line)
        _x_axis(axes, own, "n")
        axes.axhline(0, color="black", lw=0.6)
        axes.set_title(title.removeprefix("generator = "), fontsize=8)
        axes.set_xlabel("n", fontsize=8)
    grid[0][0].set_ylabel("log det of the information (nats)", fontsize=8)
    _legend(figure, grid[0][0])
    return figure


def learning_curves(panels: dict[str, list[Row]]) -> Figure:
    """Held-out NLL against tokens, less that of uniform's first budget in the same replicate.

    Uniform is a line with 95% intervals, the others are a mark a budget. Budgets with at most
    half of the most replicates are left out.
    """
    figure = _figure(3.6 * len(panels) + 1.8, 3.4)
    grid = figure.subplots(1, len(panels), squeeze=False)
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
            line = style(name, k)
            axes.errorbar(
                [x for x, _ in points],
                [e.mean for _, e in points],
                [e.half for _, e in points],
                label=name, ms=5, elinewidth=0.6, capsize=2,
                **(line if name == "uniform" else line | {"ls": ""}),
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
    _legend(figure, grid[0][0])
    return figure


def style(name: str, k: int) -> dict:
    """How a selector is drawn, the k-th one: by mark, dashes and shade, so that grey tells them."""
    return STYLES.get(name) or {
        "color": SHADES[k % len(SHADES)],
        "ls": DASHES[k % len(DASHES)],
        "marker": MARKERS[k % len(MARKERS)],
        "mfc": "white" if k % 2 else None,
        "lw": 1.0,
    }


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside right upper", fontsize=8, frameon=False, handlelength=4
    )


def _by_setting(rows: Sequence[Row], x: str) -> dict[str, list[Row]]:
    settings: dict[str, list[Row]] = {}
    for row in rows:
        name = ", ".join(f"{k} = {v}" for k, v in row["setting"].items() if k != x)
        settings.setdefault(name, []).append(row)
    return settings


def _means(rows: Sequence[Row], metric: str, x: str) -> dict[float, Estimate]:
    return {at: estimate(r[metric] for r in own) for (at,), own in group(rows, x).items()}


def _curves(axes: Axes, rows: Sequence[Row], metric: str, x: str) -> None:
    for k, ((name,), own) in enumerate(group(rows, "selector").items()):
        _line(axes, _means(own, metric, x), name, style(name, k))
    logarithmic = metric != "held_out_nll"
    _x_axis(axes, rows, x)
    axes.set(yscale="log" if logarithmic else "linear")
    if logarithmic:
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.yaxis.set_minor_formatter("{x:g}")


def _ratios(axes: Axes, rows: Sequence[Row], metric: str, x: str) -> None:
    of_selector = group(rows, "selector")
    base = group(of_selector.get(("uniform",), []), x)
    for k, ((name,), own) in enumerate(of_selector.items()):
        shift = 1.12 ** (k / len(of_selector) - 0.5)  # side by side, where all are alike
        points = {
            at * shift: percent(log_ratio(some, base[at,], metric))
            for (at,), some in group(own, x).items()
            if (at,) in base
        }
        line = style(name, k)
        _line(axes, points, name, line if name in STYLES else line | {"elinewidth": 0.4})
    _x_axis(axes, rows, x)


def _x_axis(axes: Axes, rows: Sequence[Row], x: str) -> None:
    axes.set(xscale="log")
    axes.grid(alpha=0.25, which="both")
    values = sorted(at for (at,) in group(rows, x))
    axes.set_xticks(values, [f"{at:g}" for at in values])
    axes.set_xticks([], minor=True)
    axes.tick_params(labelsize=8, which="both")


def _line(axes: Axes, points: dict[float, Estimate], label: str, line: dict) -> None:
    mean, half, _ = np.array([*points.values()]).T
    axes.errorbar([*points], mean, half, label=label, **{"ms": 4, "elinewidth": 0.9} | line)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG in one step."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
