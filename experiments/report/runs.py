"""What RESULTS.md shows of a finished run: its source, figures and tables."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from scipy import stats

from experiments.report.figures import dots, draw, save
from experiments.report.statistics import (
    Estimate,
    estimate,
    group,
    log_ratio,
    matching,
    percent,
    slope,
)
from experiments.run.results import PROVENANCE, RESOLVED, RESULTS, Row, read_rows

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "results"
FIGURES = ROOT / "docs/figures"


class Run:
    """A finished experiment: its rows, figures and tables, as RESULTS.md shows them."""

    def __init__(self, name: str, experiment: str) -> None:
        folder = KEPT / name / experiment
        self.where = f"{name}_{experiment}"
        self.command = f"python -m experiments.{name} experiment={experiment}"
        self.rows = read_rows(folder / f"{RESULTS}.gz")
        self.facts = json.loads((folder / PROVENANCE).read_text())
        self.options = OmegaConf.load(folder / RESOLVED)

    @property
    def source(self) -> str:
        """Command, replicates, pool, time if it was kept, commit, machine."""
        commit = self.facts.get("git_commit", "unknown")[:10]
        if self.facts.get("git_tree") == "changed":
            commit += " with changes"
        replicates = len({r["replicate"] for r in self.rows})
        varies = "n_examples" not in self.options or "n_examples" in self.options.grid
        pool = "" if varies else f", N = {self.options.n_examples:,}"
        seconds = self.facts.get("seconds")
        took = f", {seconds / 60:.1f} minutes" if seconds else ""
        return (
            f"`{self.command}`, {replicates} replicates{pool}{took}; commit {commit}, "
            f"{self.facts.get('cpu', 'unknown CPU')}, jax {self.facts['jax']}"
        )

    def figure(self, metric: str, title: str, x: str = "n", n: int | None = None) -> str:
        """A picture of a metric against n, or at one n against an option, and its Markdown."""
        rows = [r for r in self.rows if n in (None, r["n"])]
        return self.picture(draw(rows, metric, x), metric if x == "n" else f"{metric}_{x}", title)

    def picture(self, figure: Figure, name: str, title: str) -> str:
        """Save a picture; its Markdown."""
        save(figure, FIGURES / f"{self.where}_{name}.png")
        return f"![{title}](docs/figures/{self.where}_{name}.png)"

    def ratios(self, metric: str, ns: list[int], digits: int = 0, **setting: object) -> str:
        """How much larger the error is than uniform's, at equal examples and equal tokens."""
        rows = self.of(**setting)
        kinds = [k for (k,) in group(rows, "equal")]
        columns = [(kind, n) for kind in kinds for n in ns]
        lines = []
        for (name,), own in group(rows, "selector").items():
            cells = []
            for kind, n in columns:
                here = matching(own, equal=kind, n=n)
                base = matching(rows, selector="uniform", equal=kind, n=n)
                cells.append(
                    "0" if name == "uniform" else ratio(log_ratio(here, base, metric), digits)
                )
            lines.append([name, *cells])
        return table(["against uniform", *(f"{k}, n = {n}" for k, n in columns)], lines)

    def slopes(self, x: str = "n", n: int | None = None, **setting: object) -> str:
        """Slopes of the log maximum and mean error against log x, for each kind of budget."""
        panels = self.slopes_of(x, n, **setting)
        names = next(iter(panels.values()))
        lines = [[name, *(str(panel[name]) for panel in panels.values())] for name in names]
        return table([f"slope in {x}", *panels], lines)

    def slopes_figure(self, title: str) -> str:
        """A picture of the slopes in n beside the theory's and the paper's."""
        references = {"theory": -0.5, "paper": -0.3}
        figure = dots(self.slopes_of("n"), "slope of log error in log n", references)
        return self.picture(figure, "slopes", title)

    def slopes_of(
        self, x: str, n: int | None = None, **setting: object
    ) -> dict[str, dict[str, Estimate]]:
        """error and kind of budget: selector: slope."""
        of_cell = group([r for r in self.of(**setting) if n in (None, r["n"])], "equal", "selector")
        return {
            f"{metric}, equal {kind}": {
                name: slope(own, x, f"{metric}_logit")
                for (of_kind, name), own in of_cell.items()
                if of_kind == kind
            }
            for metric in ("max", "mean")
            for kind in dict.fromkeys(kind for kind, _ in of_cell)
        }

    def slopes_by(
        self, key: str, selectors: list[str], equal: str = "examples", **setting: object
    ) -> str:
        """Slope of the log maximum error against log n, a column a value of an option."""
        of_cell = group(self.of(equal=equal, **setting), "selector", key)
        values = list(dict.fromkeys(value for _, value in of_cell))
        lines = [
            [name, *(str(slope(of_cell[name, value], "n", "max_logit")) for value in values)]
            for name in selectors
        ]
        return table(["slope in n", *(f"{key} = {v}" for v in values)], lines)

    def errors(
        self, metric: str, selectors: list[str], x: str = "n", n: int | None = None, **setting: Any
    ) -> str:
        """Mean errors of some selectors themselves, at every n or at one n against an option."""
        rows = [r for r in self.of(**setting) if r["selector"] in selectors]
        of_cell = group([r for r in rows if n in (None, r["n"])], "equal", "selector", x)
        kinds, values = (list(dict.fromkeys(of)) for of in list(zip(*of_cell, strict=True))[::2])
        lines = [
            [
                kind,
                name,
                *(str(estimate(r[metric] for r in of_cell[kind, name, v])) for v in values),
            ]
            for kind in kinds
            for name in selectors
        ]
        return table(["equal", "selector", *(f"{x} = {v}" for v in values)], lines)

    def differences_by(self, key: str, metric: str, n: int, **setting: object) -> str:
        """Ratio to uniform at one n, a column a value of an option."""
        rows = self.of(n=n, **setting)
        values = [v for (v,) in group(rows, key)]
        lines = []
        for (name, kind), own in group(rows, "selector", "equal").items():
            if name == "uniform":
                continue
            cells = []
            for value in values:
                here = matching(own, **{key: value})
                base = matching(rows, selector="uniform", equal=kind, **{key: value})
                cells.append(ratio(log_ratio(here, base, metric)))
            lines.append([name, kind, *cells])
        return table(["against uniform", "equal", *(f"{key} = {v}" for v in values)], lines)

    def correlations(self) -> str:
        """Spearman's correlation of bound and exact information over the random subsets."""
        lines = []
        for (n,), own in group(self.rows, "n").items():
            of_replicate = group([r for r in own if r["selector"] == "random"], "replicate")
            e = estimate(
                stats.spearmanr([r["bound"] for r in v], [r["exact"] for r in v]).statistic  # pyright: ignore
                for v in of_replicate.values()
            )
            lines.append([str(n), str(e)])
        return table(["n", "rank correlation of bound and exact information"], lines)

    def gaps(self) -> str:
        """The bound less the exact information, in nats."""
        ns = [n for (n,) in group(self.rows, "n")]
        of_cell = group(self.rows, "selector", "n")
        lines = [
            [name, *(gap(of_cell[name, n]) for n in ns)] for (name,) in group(self.rows, "selector")
        ]
        return table(["bound less exact, nats", *(f"n = {n}" for n in ns)], lines)

    def information(self, ns: list[int]) -> str:
        """Exact information of the selections, in percent above the mean of uniform draws."""
        lines = []
        for (name,), own in group(self.rows, "selector").items():
            if name == "random":
                continue
            cells = []
            for n in ns:
                base = {
                    replicate: np.mean([r["exact"] for r in v])
                    for (replicate,), v in group(
                        self.of(selector="random", n=n), "replicate"
                    ).items()
                }
                here = matching(own, n=n)
                e = estimate(r["exact"] / base[r["replicate"]] - 1 for r in here)
                cells.append(f"{100 * e.mean:+.1f} ± {100 * e.half:.1f} %")
            lines.append([name, *cells])
        return table(["exact information against uniform draws", *(f"n = {n}" for n in ns)], lines)

    def seconds(self) -> str:
        """Run times and speed-ups."""
        lines = []
        for (n,), own in group(self.rows, "n").items():
            of = {
                k: estimate(r["seconds"] for r in v) for (k,), v in group(own, "selector").items()
            }
            ours = of["fisher_jax"].mean
            ours_only = [r for r in own if "shared" in r]
            same = "yes" if all(r["same_in_float64"] for r in ours_only) else "no"
            lines.append(
                [
                    str(n),
                    f"{in_seconds(of['algorithm_1'])} ({of['algorithm_1'].mean / ours:.0f}x)",
                    f"{in_seconds(of['algorithm_2'])} ({of['algorithm_2'].mean / ours:.1f}x)",
                    in_seconds(of["fisher_jax"]),
                    f"{100 * np.mean([r['shared'] for r in ours_only]):.1f} %",
                    same,
                ]
            )
        return table(
            ["n", "Algorithm 1", "Algorithm 2", "ours", "shared picks", "same order in float64"],
            lines,
        )

    def kept(self, metric: str, ns: list[int]) -> str:
        """Share of fisher's advantage over uniform that each remedy keeps (ratio of means)."""
        lines = []
        for (name,) in group(self.rows, "selector"):
            if name in ("uniform", "fisher"):
                continue
            cells = []
            for n in ns:
                mean = {
                    k: estimate(r[metric] for r in matching(v, n=n)).mean
                    for (k,), v in group(self.rows, "selector").items()
                }
                share = (mean["uniform"] - mean[name]) / (mean["uniform"] - mean["fisher"])
                cells.append(f"{100 * share:.0f} %")
            lines.append([name, *cells])
        return table(["kept of fisher's advantage", *(f"n = {n}" for n in ns)], lines)

    def of(self, **wanted: object) -> list[Row]:
        """Rows with these values, of the row itself or of its setting."""
        return matching(self.rows, **wanted)


def gap(rows: list[Row]) -> str:
    """Mean of bound less exact over replicates, beside the mean bound."""
    own = group(rows, "replicate").values()
    e = estimate(float(np.mean([r["bound"] - r["exact"] for r in some])) for some in own)
    return f"{e.mean:.1f} ± {e.half:.1f} of {np.mean([r['bound'] for r in rows]):.0f}"


def in_seconds(e: Estimate) -> str:
    """A mean run time with its interval."""
    return f"{e.mean:.2g} ± {e.half:.2g} s"


def ratio(e: Estimate, digits: int = 0) -> str:
    """A mean log-ratio as a percentage with its interval; bold where it excludes zero."""
    mean, half = percent(e)
    text = f"{mean:+.{digits}f} ± {half:.{digits}f} %"
    return f"**{text}**" if e.excludes_zero else text


def table(head: list[str], lines: list[list[str]]) -> str:
    """A table in Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
