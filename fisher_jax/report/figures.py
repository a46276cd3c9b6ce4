"""The report's figures, readable in grey."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_DARK, _LIGHT = "#1f4e79", "#9aa5b1"


class UniformDraws(NamedTuple):
    """log det of uniform draws along a budget, for comparison: mean, lowest and highest."""

    budget: Float[np.ndarray, "P"]
    mean: Float[np.ndarray, "P"]
    low: Float[np.ndarray, "P"]
    high: Float[np.ndarray, "P"]


def uniform_draws(
    cumulative: list[tuple[np.ndarray, np.ndarray]], limit: float = np.inf, points: int = 200
) -> UniformDraws:
    """Curves (budget spent, log det) of several draws, at the budgets that all of them reach.

    Between two rows of a draw the curve is a straight line; nothing beyond `limit` is shown.
    """
    grid = np.linspace(0, min(limit, *(spent[-1] for spent, _ in cumulative)), points)
    curves = np.stack(
        [np.interp(grid, np.append(0, spent), np.append(0, f)) for spent, f in cumulative]
    )
    return UniformDraws(grid, curves.mean(0), curves.min(0), curves.max(0))


def gain_curve(gains: Float[np.ndarray, "n"]) -> Figure:
    """Information gain of each choice against its rank."""
    figure, axes = _axes("rank of the choice", "information gain (nats)")
    axes.plot(np.arange(len(gains)), gains, color=_DARK)
    axes.set_ylim(bottom=0)
    axes.set_title("What each choice adds")
    return figure


def log_det_curve(
    spent: Float[np.ndarray, "n"],
    gains: Float[np.ndarray, "n"],
    uniform: UniformDraws,
    unit: str,
) -> Figure:
    """log det against a budget of `unit` (examples or tokens), ours and uniform's."""
    figure, axes = _axes(f"{unit} chosen", "log det of the information (nats)")
    axes.plot(np.append(0, spent), np.append(0, np.cumsum(gains)), color=_DARK, label="selected")
    axes.plot(uniform.budget, uniform.mean, "--", color="black", label="uniform, mean")
    axes.fill_between(
        uniform.budget, uniform.low, uniform.high, color=_LIGHT, alpha=0.6, label="uniform, range"
    )
    axes.legend(frameon=False, loc="lower right")
    axes.set_title(f"Information at equal {unit}")
    return figure


def length_histogram(pool: Int[np.ndarray, "N"], chosen: Int[np.ndarray, "n"]) -> Figure:
    """Share of rows by length, in the pool and among the chosen."""
    figure, axes = _axes("tokens of a row", "share of rows")
    top = max(2, int(np.quantile(pool, 0.995)))
    width = -(-top // 40)  # whole tokens, so that no bin holds one length more than the next
    edges = np.arange(0, top + 2 * width, width).tolist()
    for lengths, label in ((pool, "pool"), (chosen, "selected")):
        share = np.full(len(lengths), 1 / len(lengths))
        clipped = np.minimum(lengths, edges[-1] - 1)
        if label == "pool":
            axes.hist(clipped, edges, weights=share, label=label, color=_LIGHT)
        else:
            axes.hist(
                clipped, edges, weights=share, label=label, histtype="step", color=_DARK, lw=1.8
            )
    axes.legend(frameon=False)
    axes.set_title("Lengths")
    return figure


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 3.4))
    axes = figure.subplots()
    figure.subplots_adjust(0.145, 0.15, 0.945, 0.91)  # room for six digits; drawn once
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    return figure, axes
