"""The report's figures: told apart by colour-blind readers, and in grey by their strokes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from fisher_jax.report.comparison import UniformDraws
from fisher_jax.report.likeness import CLUSTERS, Map

_OURS, _POOL = "#0072b2", "#b8c0c8"  # with the strokes below: Okabe and Ito's colours
_OTHERS = [("#d55e00", "-."), ("#009e73", ":"), ("#cc79a7", "--"), ("#e69f00", "-")]
STYLE: dict[Any, Any] = {  # of matplotlib, for `rc_context` around figures and their files
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelcolor": "#333333",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.8,
}
_MOST_POINTS = 5000  # on a map


class Curve(NamedTuple):
    """A selection's log det along what it spends."""

    spent: Float[np.ndarray, "n"]
    gains: Float[np.ndarray, "n"]


def gain_curve(gains: Float[np.ndarray, "n"], flat_from: int | None = None) -> Figure:
    """Information gain of each choice against its rank, and where gains have flattened."""
    figure, axes = _figure("rank of the choice", "information gain (nats)", "What each choice adds")
    axes.plot(np.arange(len(gains)), gains, color=_OURS, label="gain")
    axes.set_ylim(bottom=0)
    if flat_from is not None:
        axes.axvline(
            flat_from, color="black", ls=":", lw=1.2, label=f"flat from rank {flat_from:,}"
        )
        axes.legend(loc="upper right")
    return figure


def log_det_curve(curves: Mapping[str, Curve], uniform: UniformDraws, unit: str) -> Figure:
    """log det against a budget of `unit` (examples or tokens): uniform's, and the selections'."""
    title = f"Information at equal {unit}"
    figure, axes = _figure(f"{unit} chosen", "log det of the information (nats)", title)
    axes.fill_between(
        uniform.budget, uniform.low, uniform.high, color=_POOL, alpha=0.7, label="uniform, range"
    )
    axes.plot(uniform.budget, uniform.mean, "--", color="black", lw=1.2, label="uniform, mean")
    for (name, curve), stroke in zip(curves.items(), _strokes(curves), strict=True):
        spent, f = np.append(0, curve.spent), np.append(0, np.cumsum(curve.gains))
        axes.plot(spent, f, label=name, **stroke)
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower right")
    return figure


def histogram(
    pool: Float[np.ndarray, "N"] | Int[np.ndarray, "N"],
    chosen: Mapping[str, Float[np.ndarray, "_"] | Int[np.ndarray, "_"]],
    label: str,
    title: str,
) -> Figure:
    """Share of rows by a number, in the pool and among the chosen.

    The upper half percent stands in the last bin.
    """
    figure, axes = _figure(label, "share of rows (%)", title)
    edges = _edges(pool)
    axes.stairs(_shares(pool, edges), edges, fill=True, label="pool", color=_POOL)
    for (name, values), stroke in zip(chosen.items(), _strokes(chosen), strict=True):
        axes.stairs(_shares(values, edges), edges, label=name, baseline=None, **stroke)
    axes.legend(loc="best")
    return figure


def distances(
    uniform: Sequence[Float[np.ndarray, "S"]],
    chosen: Mapping[str, Float[np.ndarray, "S"]],
    label: str,
) -> Figure:
    """Share of the pool's rows that have a choice within a distance, and uniform's draws."""
    figure, axes = _figure(label, "share of the pool's rows (%)", "How well the pool is covered")
    share = np.linspace(0, 100, 101)
    draws = np.stack([np.quantile(d, share / 100) for d in uniform])
    axes.fill_betweenx(
        share, draws.min(0), draws.max(0), color=_POOL, alpha=0.7, label="uniform, range"
    )
    axes.plot(draws.mean(0), share, "--", color="black", lw=1.2, label="uniform, mean")
    for (name, values), stroke in zip(chosen.items(), _strokes(chosen), strict=True):
        axes.plot(np.quantile(values, share / 100), share, label=name, **stroke)
    axes.set_ylim(0, 100)
    axes.legend(loc="lower right")
    return figure


def pool_map(seen: Map, chosen: Mapping[str, Int[np.ndarray, "_"]]) -> Figure:
    """The pool's rows and the choices among them, a panel a rule; letters name the clusters."""
    columns = 2 if len(chosen) in (2, 4) else min(len(chosen), 3)
    lines = -(-len(chosen) // columns)
    width, height = (5.2, 3.4) if columns == 1 else (3.4 * columns, 0.4 + 3.0 * lines)
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    margin, gap = 0.3, 0.35  # inches
    figure.subplots_adjust(
        margin / width, margin / height, 1 - 0.1 / width, 1 - margin / height, 0.05, gap / 3.0
    )
    pool = _thinned(np.arange(len(seen.places)))
    for axes, (name, rows) in zip(grid.flat, chosen.items(), strict=False):
        axes.scatter(*seen.places[pool].T, s=5, color=_POOL, lw=0, label="pool")
        axes.scatter(*seen.places[_thinned(rows)].T, s=9, color=_OURS, lw=0, alpha=0.8, label=name)
        axes.set_title("Pool and choices" if columns == 1 else name)
        axes.set_xticks([])
        axes.set_yticks([])
        for letters, place in _letters(seen):
            box = {"boxstyle": "round,pad=0.2", "fc": "white", "ec": "black", "lw": 0.6}
            axes.text(*place, letters, ha="center", va="center", fontsize=7, bbox=box)
    for axes in list(grid.flat)[len(chosen) :]:
        axes.set_visible(False)
    if columns == 1:
        grid[0, 0].legend(loc="best", markerscale=2)
    first, second = (f"{100 * share:.0f}% of the variance" for share in seen.shares)
    figure.supxlabel(f"first principal component ({first})", fontsize=9, y=0.06 / height)
    figure.supylabel(f"second ({second})", fontsize=9, x=0.06 / width)
    return figure


def _letters(seen: Map) -> list[tuple[str, Float[np.ndarray, "2"]]]:
    """Names of the clusters and where they stand; those that would overlap stand together."""
    near = 0.07 * np.ptp(seen.places, axis=0)
    labels: list[tuple[str, Float[np.ndarray, "2"]]] = []
    for letter, place in zip(CLUSTERS, seen.centres, strict=False):
        for k, (letters, other) in enumerate(labels):
            if np.all(np.abs(place - other) < near * (1 + len(letters)) / 2):
                labels[k] = letters + letter, other
                break
        else:
            labels.append((letter, place))
    return labels


def _figure(x: str, y: str, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 3.4))
    axes = figure.subplots()
    figure.subplots_adjust(0.13, 0.14, 0.97, 0.92)  # room for six digits; drawn once
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title)
    if x.endswith("chosen") or x.startswith(("rank", "tokens")):
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    return figure, axes


def _strokes(curves: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of the selection and of those that it is compared with."""
    others = [_OTHERS[i % len(_OTHERS)] for i in range(len(curves) - 1)]
    return [
        {"color": _OURS, "ls": "-", "lw": 2.2},
        *({"color": color, "ls": style, "lw": 1.5} for color, style in others),
    ]


def _edges(values: Float[np.ndarray, "N"] | Int[np.ndarray, "N"]) -> Float[np.ndarray, "_"]:
    """Of about 40 bins; of whole numbers, so that no bin holds one number more than the next."""
    if np.issubdtype(values.dtype, np.integer):
        top = max(2, int(np.quantile(values, 0.995)))
        width = -(-top // 40)
        return np.arange(0.0, top + 2 * width, width)
    low, high = float(values.min()), float(np.quantile(values, 0.995))
    return np.linspace(low, max(high, low + 1e-6 * max(1.0, abs(low))), 41)


def _shares(values: np.ndarray, edges: Float[np.ndarray, "E"]) -> Float[np.ndarray, "_"]:
    """Percent of the values in each bin; those outside stand in the nearest."""
    below = np.nextafter(edges[-1], -np.inf)
    return 100 * np.histogram(np.clip(values, edges[0], below), edges)[0] / len(values)


def _thinned(rows: Int[np.ndarray, "_"]) -> Int[np.ndarray, "_"]:
    """At most `_MOST_POINTS` of them, evenly."""
    if len(rows) <= _MOST_POINTS:
        return rows
    return rows[np.linspace(0, len(rows) - 1, _MOST_POINTS).astype(np.int64)]
