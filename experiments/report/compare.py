"""Figures of several results folders side by side, one's own runs among them."""

from collections.abc import Iterator
from pathlib import Path

from experiments.report.committed import read_run
from experiments.report.figures import METRICS, draw, learning_curves, save
from experiments.report.forest import MARKS, forest, panels_of
from experiments.report.statistics import values_of
from experiments.run.kept import AGAIN, Row, having
from fisher_jax.util.errors import UserError


def compare(folders: list[Path], output: Path) -> Iterator[Path]:
    """Write learning curves and a forest plot of every metric that a run has.

    Args:
        folders: of runs, or of sweeps; a panel each.
        output: is made if need be.

    Returns:
        The files, as they are written.

    Raises:
        UserError: a folder has no results, or no metric that is drawn.
    """
    of_run = {_name(folder, folders): _rows(folder) for folder in folders}
    metrics = [m for m in METRICS if any(m in row for rows in of_run.values() for row in rows)]
    if not metrics:
        raise UserError(f"no run has any of {', '.join(METRICS)}: there is nothing to draw")
    output.mkdir(parents=True, exist_ok=True)
    for metric in metrics:
        having = {name: [r for r in rows if metric in r] for name, rows in of_run.items()}
        rows = [
            r | {"setting": {"run": name} | r["setting"]} for name in having for r in having[name]
        ]
        figures = {metric: draw(rows, metric)}
        if panels := panels_of(rows, metric, values_of(rows, "n")[: len(MARKS)]):
            label = f"{METRICS[metric]} against uniform's, %; left is better"
            figures[f"forest_{metric}"] = forest(panels, label, {"uniform": 0})
        if metric == "held_out_nll" and all("validation_nll" in r for r in rows):
            figures["tokens"] = learning_curves(having)
        for name, figure in figures.items():
            save(figure, output / f"{name}.png")
            yield output / f"{name}.png"


def _rows(folder: Path) -> list[Row]:
    rows = having(read_run(folder).rows, folder, "replicate", "selector", "n")
    for k, row in enumerate(rows, start=1):
        for metric in METRICS:
            if not isinstance(value := row.get(metric, 0.0), int | float):
                raise UserError(
                    f"{folder}: row {k} of its results has {metric} {value!r:.60}, which is no "
                    f"number: {AGAIN}"
                )
    return rows


def _name(folder: Path, folders: list[Path]) -> str:
    """The folder's last name, all of its path where another has the same."""
    same = [other for other in folders if other.name == folder.name]
    return folder.name if len(same) == 1 else str(folder)
