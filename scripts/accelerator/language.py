"""Stage: cells of the language experiment, as many as there is time for."""

from scripts.accelerator.experiment import run
from scripts.accelerator.record import Context, Numbers, Parts

MARGIN = 5.0  # seconds for what comes after
# Compilation is most of the time to the first cell: one rate, one budget, and as many rows for
# validation and test as in the pool, so that all three are embedded by one program.
SIZES = {"n_pool": 1000, "n_validation": 1000, "n_test": 1000, "budgets": "[200]"}
SMALL = {"n_pool": 40, "n_validation": 40, "n_test": 40, "budgets": "[4]", "max_length": 33}
PLAIN = {
    "equal": "[tokens]",
    "uniform_budgets": "[]",
    "learning_rates": "[0.003]",
    "n_prompts": 0,
    "generate_budgets": "[]",
    "selectors": "[uniform,longest,fisher,fisher_per_token]",
}


def parts(job: Context) -> Parts:
    """The parts of the stage."""
    options = PLAIN | (SMALL | {"replicates": 1} if job.small else SIZES)
    overrides = ["experiment=cpu", *(f"{key}={value}" for key, value in options.items())]

    def cells() -> Numbers:
        keep = lambda numbers: job.keep("cells", numbers | rate(numbers))  # noqa: E731
        seconds = job.seconds_left() - MARGIN
        numbers = run("language", overrides, job.folder / "language", seconds, keep)
        return numbers | rate(numbers)

    return {"cells": cells}


def rate(numbers: Numbers) -> Numbers:
    """Cells an hour after the first: it waits for embedding and compilation."""
    times = numbers["row_times_s"]
    if len(times) < 2 or times[-1] == times[0]:
        return {"cells": len(times)}
    per_cell = (times[-1] - times[0]) / (len(times) - 1)
    return {"cells": len(times), "first_cell_s": times[0], "cells_an_hour": 3600 / per_cell}
