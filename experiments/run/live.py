"""What wandb is told while a run is at work."""

import sys
from typing import Any


def log(**values: Any) -> None:
    """Numbers and names of this moment, if there is a run to log to."""
    wandb = sys.modules.get("wandb")  # not loaded where nothing logs to it
    if wandb is not None and wandb.run is not None:
        wandb.run.log(values)
