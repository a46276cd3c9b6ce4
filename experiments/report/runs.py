"""A kept run as its page shows it: by what it was made, its figures, its tables."""

from functools import cached_property
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from experiments.report.committed import KEPT, read_run
from experiments.report.figures import draw, save
from experiments.report.forest import forest, panels_of
from experiments.report.statistics import (
    Estimate,
    against_uniform,
    estimate,
    group,
    slope,
    values_of,
)
from experiments.report.tables import Cell, Compared, in_percent, table
from experiments.run.conf import CONF
from experiments.run.results import GROWING, Row
from fisher_jax.util.excerpt import counted

ERRORS = {
    "max_logit": "maximum logit error",
    "mean_logit": "mean logit error",
    "held_out_nll": "held-out NLL a token",
    "mean_variation": "mean total variation",
    "max_sentence_variation": "maximum over sentences of the summed total variation",
}


class Run:
    """A finished experiment; `study` and `experiment` name its folders of conf/ and results/."""

    def __init__(self, study: str, experiment: str) -> None:
        self.study, self.experiment = study, experiment
        self.folder = KEPT / study / experiment
        self.rows, self.options, self.facts = read_run(self.folder)

    @property
    def name(self) -> str:
        """STUDY/EXPERIMENT."""
        return f"{self.study}/{self.experiment}"

    @property
    def command(self) -> str:
        """What makes it."""
        return f"python -m experiments.{self.study} experiment={self.experiment}"

    @property
    def about(self) -> str:
        """What the experiment's file in conf/ says of it."""
        lines = (CONF / self.study / f"experiment/{self.experiment}.yaml").read_text().splitlines()
        return "\n".join(line[2:] for line in lines[2:] if line.startswith("# "))

    @property
    def minutes(self) -> str:
        """How long it took, of all its parts."""
        seconds = self.facts.get("seconds")
        return f"{seconds / 60:.1f}" if seconds else "not kept"

    @property
    def hardware(self) -> str:
        """What it ran on."""
        return f"{self.facts.get('devices', '1 x cpu')}, {self.facts.get('cpu', 'unknown CPU')}"

    @property
    def commit(self) -> str:
        """The commit that made the last rows."""
        commit = self.facts.get("git_commit", "unknown")[:10]
        return commit + ("+" if self.facts.get("git_tree") == "changed" else "")

    @property
    def replicates(self) -> int:
        """How many."""
        return len(values_of(self.rows, "replicate"))

    @property
    def source(self) -> str:
        """Command, replicates, pool, time, commit, machine."""
        varies = "n_examples" not in self.options or "n_examples" in self.options.grid
        pool = "" if varies else f", N = {self.options.n_examples:,}"
        replicates = counted(self.replicates, "replicate")
        return (
            f"`{self.command}`; {replicates}{pool}; minutes: {self.minutes}; "
            f"commit {self.commit}; {self.hardware}; jax {self.facts['jax']}"
        )

    @cached_property
    def today(self) -> DictConfig:
        """The options that the command has today."""
        with initialize_config_dir(str(CONF / self.study), version_base="1.3"):
            return compose("config", [f"experiment={self.experiment}"])

    @property
    def changed(self) -> str:
        """The options that differ from those that the command has today."""
        kept, today = (OmegaConf.to_container(some) for some in (self.options, self.today))
        assert isinstance(kept, dict) and isinstance(today, dict)
        growing = GROWING if self.study == "language" else ("selectors",)
        keys = [k for k in kept if k not in growing and kept[k] != today[k]]
        told = [f"`{k}={kept[k]}` (today `{today[k]}`)" for k in keys]
        if self.study != "language":
            more = [name for name in today["selectors"] if name not in kept["selectors"]]
            told += [f"and the selectors {', '.join(more)}"] if more else []
        return ", ".join(told)

    @property
    def ns(self) -> list[int]:
        """Its budgets, smallest first."""
        return sorted(self.values("n"))

    def near(self, *ns: int) -> list[int]:
        """The budgets that were run nearest to these, each once."""
        return sorted({min(self.ns, key=lambda n: abs(np.log(n / wanted))) for wanted in ns})

    def of(self, **where: object) -> list[Row]:
        """Rows with these values, of the row itself or of its setting."""
        keys = tuple(where)
        if keys not in self._grouped:
            self._grouped[keys] = group(self.rows, *keys)
        return self._grouped[keys].get(tuple(where.values()), [])

    @cached_property
    def _grouped(self) -> dict[tuple[str, ...], dict[tuple, list[Row]]]:
        return {}

    def values(self, key: str) -> list:
        """The values of a key or an option in the rows, in order of appearance."""
        if (key,) not in self._grouped:
            self._grouped[key,] = group(self.rows, key)
        return [value for (value,) in self._grouped[key,]]

    def estimate_against(self, selector: str, metric: str, **point: object) -> Estimate:
        """How many percent more than uniform's, at one point."""
        return against_uniform(self.of(**point), metric)[selector]

    def against(self, selector: str, metric: str, digits: int = 0, **point: object) -> Compared:
        """The same with its interval, for prose."""
        return in_percent(self.estimate_against(selector, metric, **point), digits)

    def error(self, selector: str, metric: str, **point: object) -> Estimate:
        """A selector's mean error at one point."""
        return estimate(r[metric] for r in self.of(selector=selector, **point))

    def slope(self, selector: str, metric: str, x: str = "n", **where: Any) -> Estimate:
        """Slope of a selector's log error against log x."""
        return slope(self.of(selector=selector, **where), x, metric)

    def picture(self, figure: Figure, name: str, title: str) -> str:
        """Save a picture beside the page; its Markdown."""
        save(figure, self.folder / f"{name}.png")
        return f"![{title}]({name}.png)"

    def figure(self, metric: str, x: str = "n", n: int | None = None) -> str:
        """A picture of a metric against n, or at one n against an option."""
        rows = [r for r in self.rows if n in (None, r["n"])]
        title = f"{ERRORS.get(metric, metric)} against {x}"
        return self.picture(draw(rows, metric, x), metric if x == "n" else f"{metric}_{x}", title)

    def forest(self, metric: str, *ns: int, **where: object) -> str:
        """A picture of the differences to uniform in percent, a panel a setting and budget kind."""
        panels = panels_of(self.of(**where), metric, self.near(*ns), [*where])
        label = f"{ERRORS[metric]} against uniform's, %; left is better"
        columns = 2 if len(self.values("equal")) == 2 else 4
        figure = forest(panels, label, {"uniform": 0}, columns)
        return self.picture(figure, f"forest_{metric}", label)

    def ratios(self, metric: str, *ns: int, digits: int = 0, **where: object) -> str:
        """How many percent more than uniform's the error is, at equal examples and tokens."""
        kinds = values_of(self.of(**where), "equal")
        points = [{"equal": kind, "n": n} for kind in kinds for n in self.near(*ns)]
        columns = [against_uniform(self.of(**point, **where), metric) for point in points]
        lines: list[list[Cell]] = [
            [name, *(in_percent(column[name], digits) for column in columns)] for name in columns[0]
        ]
        return table(["against uniform", *(f"{p['equal']}, n = {p['n']}" for p in points)], lines)

    def differences_by(self, key: str, metric: str, n: int, **where: object) -> str:
        """The same at one n, a column a value of an option."""
        rows, (at,) = self.of(**where), self.near(n)
        columns = {
            (kind, value): against_uniform(
                self.of(**{"equal": kind, "n": at, key: value} | where), metric
            )
            for kind in values_of(rows, "equal")
            for value in values_of(rows, key)
        }
        lines: list[list[Cell]] = []
        for name in next(iter(columns.values())):
            lines.append([name, *(in_percent(column[name]) for column in columns.values())])
        return table([f"n = {at}", *(f"{kind}, {key} = {v}" for kind, v in columns)], lines)

    def slopes_of(
        self, x: str, n: int | None = None, **where: object
    ) -> dict[str, dict[str, Estimate]]:
        """error and kind of budget: selector: slope of its log against log x."""
        rows = self.of(**(where if n is None else where | {"n": n}))
        of_cell = group(rows, "equal", "selector")
        return {
            f"{metric} error, equal {kind}": {
                name: slope(of_cell[kind, name], x, f"{metric}_logit")
                for name in values_of(rows, "selector")
            }
            for metric in ("max", "mean")
            for kind in values_of(rows, "equal")
        }

    def slopes(self, x: str = "n", n: int | None = None, **where: object) -> str:
        """Slopes of the log maximum and mean error against log x, for each kind of budget."""
        at = None if n is None else self.near(n)[0]
        panels = self.slopes_of(x, at, **where)
        names = next(iter(panels.values()))
        lines = [[name, *(str(panel[name]) for panel in panels.values())] for name in names]
        return table([f"slope in {x}" + (f", n = {at}" if at else ""), *panels], lines)

    def slopes_figure(self, theory: float, paper: float) -> str:
        """A picture of the slopes in n beside the theory's and the paper's."""
        panels = {title: {"slope": of} for title, of in self.slopes_of("n").items()}
        label, references = "slope of log error in log n", {"theory": theory, "paper": paper}
        return self.picture(forest(panels, label, references, 2, tested=False), "slopes", label)

    def slopes_by(self, key: str, selectors: list[str], equal: str, **where: Any) -> str:
        """Slope of the log maximum error against log n, a column a value of an option."""
        columns = self.values(key)
        lines = [
            [
                name,
                *(
                    str(self.slope(name, "max_logit", equal=equal, **{key: v}, **where))
                    for v in columns
                ),
            ]
            for name in selectors
        ]
        return table(["slope in n", *(f"{key} = {v}" for v in columns)], lines)

    def errors(
        self, metric: str, selectors: list[str], x: str = "n", n: int | None = None, **where: object
    ) -> str:
        """Mean errors of some selectors themselves, at every n or at one n against an option."""
        point = where if n is None else where | {"n": self.near(n)[0]}
        columns = self.values(x)
        lines = [
            [
                kind,
                name,
                *(str(self.error(name, metric, equal=kind, **point | {x: v})) for v in columns),
            ]
            for kind in self.values("equal")
            for name in selectors
        ]
        return table(["equal", "selector", *(f"{x} = {v}" for v in columns)], lines)


def grouped_means(rows: list[Row], metric: str) -> dict[str, Estimate]:
    """selector: mean of a metric."""
    return {
        name: estimate(r[metric] for r in own) for (name,), own in group(rows, "selector").items()
    }
