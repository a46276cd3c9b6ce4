"""What every experiment shares: checked options, results that survive a kill, wandb, exit codes."""

import contextlib
import importlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.run.conf import CONF, new_grid_keys
from experiments.run.results import RESULTS, Row
from fisher_jax.command.compiled import keep_compiled
from fisher_jax.command.errors import is_told, tell
from fisher_jax.command.interruption import INTERRUPTED, leave
from fisher_jax.util.errors import UserError
from fisher_jax.util.locks import only_writer
from fisher_jax.util.memory import check_address_space
from fisher_jax.util.platforms import check_platform

Config = TypeVar("Config")

Draw = Callable[[list[Row], Path], None]  # figures of rows, into a folder
MOST_NAME = 128  # characters of a run's name that wandb takes


class JobError(CompactHydraException):
    """A job of a sweep that failed: the others run, and the sweep's exit code tells."""


@dataclass
class Wandb:
    """Logging: disabled, offline or online; entity, group and tags as wandb has them."""

    mode: str = "disabled"
    project: str = "fisher_jax"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.mode not in ("disabled", "offline", "online"):
            raise UserError(f"wandb.mode must be disabled, offline or online, got {self.mode}")


def checked(cfg: DictConfig, schema: type[Config]) -> Config:
    """The options as a dataclass whose `__post_init__` refuses bad values.

    Raises:
        ValueError: an unknown key, a wrong type or value; the message names it.
    """
    if not cfg.get("name", "custom"):
        raise UserError("name must not be empty: it is the folder of the results")
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), cfg))  # pyright: ignore
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if error.full_key else ""
        raise UserError(key + str(error).splitlines()[0]) from None


@contextlib.contextmanager
def reporting(command: str) -> Iterator[None]:
    """`telling`, of work that starts JAX, if this machine and its devices let it."""
    with telling(command):
        check_address_space()
        check_platform()
        yield


@contextlib.contextmanager
def telling(command: str) -> Iterator[None]:
    """What a person can mend is told in a line: exit codes 2, and 130 for Ctrl-C."""
    try:
        yield
    except BaseException as error:
        if not is_told(error) and not _is_of_wandb(error):
            raise
        again = "; run the same command again"
        sys.exit(tell(command, error, smaller="take smaller options", interrupted=again))


def _is_of_wandb(error: BaseException) -> bool:
    wandb = sys.modules.get("wandb")
    return wandb is not None and isinstance(error, wandb.Error)


def start(name: str, module_name: str, draw: Draw) -> None:
    """The command `python -m experiments.NAME`: Hydra, checks, wandb, one-line errors.

    The module has the dataclass `Options` and `run(options, folder) -> rows`; `draw` adds figures.
    """
    command = f"experiments.{name}"

    def main(cfg: DictConfig) -> None:
        logging.getLogger("jax").setLevel(logging.WARNING)  # which devices it missed is no news
        keep_compiled()
        module = importlib.import_module(module_name)  # by name, so that launchers can pickle this
        folder = Path(HydraConfig.get().runtime.output_dir)
        job = folder.name if HydraConfig.get().mode == RunMode.MULTIRUN else None
        try:
            with reporting(command):
                log_to_wandb(name, checked(cfg, module.Options), folder, module.run, draw, job)
        except SystemExit as ended:
            if job is None or ended.code == INTERRUPTED:
                raise
            raise JobError("a job of the sweep failed, and its message is above") from None

    sys.argv[1:] = new_grid_keys(sys.argv[1:])
    try:
        hydra.main(str(CONF / name), "config", version_base="1.3")(main)()
    except SystemExit as ended:
        leave(ended.code)


def log_to_wandb(
    name: str,
    options: Any,
    folder: Path,
    run: Callable[[Any, Path], list[Row]],
    draw: Draw,
    job: str | None = None,
) -> None:
    """Run, with options, curves and figures logged to wandb if its mode is not `disabled`.

    A job of a sweep has its own name; all its jobs are one group.
    """
    if options.wandb.mode == "disabled":
        _run(options, folder, run, draw)
        return
    import wandb  # deferred: it is large, and few runs log to it

    resolved = OmegaConf.to_container(OmegaConf.structured(options))
    assert isinstance(resolved, dict)
    whole = f"{name}-{options.name}"
    log = wandb.init(
        project=options.wandb.project,
        entity=options.wandb.entity,
        mode=options.wandb.mode,
        dir=folder,
        name=whole if job is None else f"{whole}-{job}"[:MOST_NAME],
        group=options.wandb.group or (None if job is None else whole),
        tags=options.wandb.tags,
        config={str(k): v for k, v in resolved.items()},
        reinit="finish_previous",
    )
    try:
        rows = _run(options, folder, run, draw)
        for curve, points in curves(rows).items():
            for n, value in points:
                log.log({"n": n, curve: value})
        keys = sorted({k for row in rows for k in row if k != "setting"})
        table = wandb.Table(columns=["setting", *keys])
        for row in rows:
            table.add_data(json.dumps(row["setting"]), *(row.get(k) for k in keys))
        log.log({"results": table})
        log.log({p.stem: wandb.Image(str(p)) for p in sorted(folder.glob("*.png"))})
    except BaseException:  # `with` would print a traceback
        log.finish(exit_code=1)
        raise
    log.finish()


def _run(
    options: Any, folder: Path, run: Callable[[Any, Path], list[Row]], draw: Draw
) -> list[Row]:
    """Rows of the run, and their figures; no other run writes there meanwhile."""
    with only_writer(folder / RESULTS):
        rows = run(options, folder)
        draw(rows, folder)
    print(f"{folder / RESULTS}: {len(rows):,} rows, figures beside it", file=sys.stderr)
    return rows


def curves(rows: list[Row]) -> dict[str, list[tuple[int, float]]]:
    """Mean over replicates of each error against n, one curve a setting, selector and budget."""
    points: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        if "n" not in row:
            continue
        where = "/".join([*map(str, row["setting"].values()), row["equal"], row["selector"]])
        for metric in ("mean_logit", "max_logit", "held_out_nll"):
            if metric in row:
                points.setdefault(f"{where}/{metric}", {}).setdefault(row["n"], []).append(
                    row[metric]
                )
    return {
        curve: sorted((n, sum(values) / len(values)) for n, values in of_n.items())
        for curve, of_n in points.items()
    }
