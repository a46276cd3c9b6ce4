"""Cells of the language study an hour on the device that is there: `make bench` runs it.

A cell is one of `experiment=paper_cpu`: 100 rows of Shakespeare are chosen, SmolLM2's adapters are
trained on them at two rates and thrice at the better one, and tested on 200 rows. Cells that the
device trains together are measured together.
"""

from typing import Any

from hydra import compose, initialize_config_dir

from experiments.language.cells import Cell, work
from experiments.language.options import Options
from experiments.language.preparation import pool_of, prepare
from experiments.language.training import measured
from experiments.run.conf import CONF
from experiments.run.harness import checked
from fisher_jax.models import load_model
from fisher_jax.util.platforms import here
from scripts.measuring import clock

N = 100
POOL = 500  # rows that are embedded first, which is not timed


def cells_an_hour() -> dict[str, Any]:
    """The first cells, with compilation, and as many more."""
    with initialize_config_dir(str(CONF / "language"), version_base="1.3"):
        cfg = compose("config", ["experiment=paper_cpu", f"n_pool={POOL}", f"budgets=[{N}]"])
    options = next(work(checked(cfg, Options))).options
    model = load_model(options.model)
    prepared = prepare(options, model, pool_of(options, 0), "cells")
    together = max(1, here().trained_together // options.trainings)
    names = [name for name in options.selectors if name != "ask_llm"]  # which asks first
    cells = [Cell(name, equal, N) for equal in options.equal for name in names][:together]
    rows: list[dict[str, Any]] = []

    def train(replicate: int) -> None:
        found = measured(options, model, prepared, replicate, cells, options.learning_rates)
        rows.extend(row for _, row in found)

    cold, warm = clock(lambda: train(0)), clock(lambda: train(1))
    return {
        "rows": N,
        "trainings": options.trainings,
        "rates": options.learning_rates,
        "test_rows": options.n_test,
        "trained_together": len(cells),
        "compilation_s": cold - warm,
        "cells_an_hour": 3600 * len(cells) / warm,
        "held_out_nll": [row["held_out_nll"] for row in rows],
    }
