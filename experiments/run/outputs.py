"""The folder of a run, looked at before Hydra makes it."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from experiments.run.harness import reporting
from fisher_jax.util.files import check_room

_LEAST = 2**20  # bytes: Hydra's own files, rows, a figure


class UsableFolder(Callback):
    """A place that can't be written is told in a line, as what happens after it; see conf/hydra."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Of a run."""
        _use(config, config.hydra.run.dir)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Of all jobs of a sweep."""
        _use(config, config.hydra.sweep.dir)


def _use(config: DictConfig, name: str) -> None:
    with reporting(f"experiments.{config.hydra.job.name}"):
        folder = Path(name)
        check_room(folder, _LEAST, f"results in {folder}", "make room or pass hydra.run.dir=FOLDER")
        folder.mkdir(parents=True, exist_ok=True)
