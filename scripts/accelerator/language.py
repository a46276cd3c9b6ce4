"""Stage: cells of the language experiment, as many as there is time for."""

from scripts.accelerator.experiment import run
from scripts.accelerator.record import Job, Numbers, Parts

MARGIN = 5.0  # seconds for what comes after
SELECTORS = "[uniform,longest,fisher,fisher_per_token]"
SMALL = [  # tiny Shakespeare is among the pack's texts
    "experiment=smoke",
    "method=lora",
    "n_prompts=0",
    "generate_budgets=[]",
    "replicates=1",
]


def parts(job: Job) -> Parts:
    """The parts of the stage."""
    overrides = SMALL if job.small else ["experiment=cpu", "uniform_budgets=[]"]

    def cells() -> Numbers:
        given = [*overrides, f"selectors={SELECTORS}"]
        keep = lambda numbers: job.keep("cells", numbers | rate(numbers))  # noqa: E731
        seconds = job.seconds_left() - MARGIN
        numbers = run("language", given, job.folder / "language", seconds, keep)
        return numbers | rate(numbers)

    return {"cells": cells}


def rate(numbers: Numbers) -> Numbers:
    """Cells an hour after the first: it waits for embedding, compilation and rates to choose."""
    times = numbers["row_times_s"]
    if len(times) < 2 or times[-1] == times[0]:
        return {"cells": len(times)}
    per_cell = (times[-1] - times[0]) / (len(times) - 1)
    return {"cells": len(times), "first_cell_s": times[0], "cells_an_hour": 3600 / per_cell}
