"""What wandb is told while a run is at work."""

from typing import Any

import wandb


def log(**values: Any) -> None:
    """Numbers and names of this moment, if there is a run to log to; `disabled` keeps nothing."""
    if wandb.run is not None:
        wandb.run.log(values)
