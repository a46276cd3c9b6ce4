"""The folder of a run, looked at before Hydra makes it."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from experiments.run.harness import telling
from fisher_jax.util.files import check_room

_LEAST = 2**20  # bytes: Hydra's own files, rows, a figure


class UsableFolder(Callback):
    """A place that can't be written is told in a line, as what happens after it; see conf/hydra."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Of a run."""
        _use(config, "run")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Of all jobs of a sweep."""
        _use(config, "sweep")


def _use(config: DictConfig, mode: str) -> None:
    """JAX is not started yet: a job may have devices of its own."""
    with telling(f"experiments.{config.hydra.job.name}"):
        folder = Path(config.hydra[mode].dir)
        remedy = f"make room or pass hydra.{mode}.dir=FOLDER"
        check_room(folder, _LEAST, f"results in {folder}", remedy)
        folder.mkdir(parents=True, exist_ok=True)
