"""Stage: the synthetic experiment at the paper's size, whole."""

from scripts.accelerator.experiment import run
from scripts.accelerator.record import Context, Numbers, Parts

MARGIN = 3.0  # seconds for what comes after


def parts(job: Context) -> Parts:
    """The parts of the stage."""
    size = "smoke" if job.small else "paper"

    def paper() -> Numbers:
        folder, seconds = job.folder / "synthetic", job.seconds_left() - MARGIN
        numbers = run("synthetic", [f"experiment={size}"], folder, seconds, lambda _: None)
        rows = numbers.pop("row_times_s")
        return numbers | {"rows": len(rows)}

    return {size: paper}
