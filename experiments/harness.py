"""What every experiment shares: checked options, results that survive a kill, wandb, exit codes."""

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import hydra
import wandb
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fisher_jax.data import replacing

Row = dict[str, Any]
Config = TypeVar("Config")

CONF = Path(__file__).parents[1] / "conf"
RESULTS = "results.jsonl"
RESOLVED = "config.yaml"
RUNTIME_KEYS = ("wandb", "overwrite")  # options that change no result


@dataclass
class Wandb:
    """Logging: disabled, offline or online."""

    mode: str = "disabled"
    project: str = "fisher_jax"

    def __post_init__(self) -> None:
        if self.mode not in ("disabled", "offline", "online"):
            raise ValueError(f"wandb.mode must be disabled, offline or online, got {self.mode}")


class Results:
    """Rows of finished settings in a folder's results.jsonl; a killed run goes on after them.

    Raises:
        ValueError: the folder holds results of other options and `overwrite` is not set.
    """

    def __init__(self, folder: Path, options: dict[str, Any], overwrite: bool) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        kept = {k: v for k, v in options.items() if k not in RUNTIME_KEYS}
        resolved = OmegaConf.to_yaml(OmegaConf.create(kept))
        path = folder / RESOLVED
        if path.exists() and path.read_text() != resolved and not overwrite:
            raise ValueError(
                f"{folder} holds results of other options: pass overwrite=true to replace them, "
                "or hydra.run.dir=FOLDER for another place"
            )
        if overwrite or not path.exists():
            (folder / RESULTS).unlink(missing_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(resolved)
        self.rows = read_rows(folder / RESULTS)
        self._done = {json.dumps(r["setting"], sort_keys=True) for r in self.rows}

    def has(self, setting: Row) -> bool:
        """Whether a setting is finished."""
        return json.dumps(setting, sort_keys=True) in self._done

    def add(self, setting: Row, rows: list[Row]) -> None:
        """A finished setting: all its rows are written at once, or none."""
        self.rows += [{"setting": setting} | rounded(row) for row in rows]
        with replacing(self.folder / RESULTS) as temporary:
            temporary.write_text("".join(json.dumps(r) + "\n" for r in self.rows))
        self._done.add(json.dumps(setting, sort_keys=True))


def read_rows(path: Path) -> list[Row]:
    """Rows of a results.jsonl, none where there is no such file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def rounded(row: Row) -> Row:
    """Floats with six digits: what the figures need, in files that are kept."""
    return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()}


def settings(grid: dict[str, list]) -> Iterator[Row]:
    """Every combination of a grid's values, as the options that each setting changes."""
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def checked(cfg: DictConfig, schema: type[Config]) -> Config:
    """The options as a dataclass whose `__post_init__` refuses bad values.

    Raises:
        ValueError: an unknown key, a wrong type or value; the message names it.
    """
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), cfg))  # pyright: ignore
    except OmegaConfBaseException as error:
        raise ValueError(str(error).splitlines()[0]) from None


def start(name: str, schema: type, run: Callable[[Any, Path], list[Row]]) -> None:
    """The command `python -m experiments.NAME`: Hydra, checks, wandb, one-line errors.

    `run(options, folder) -> rows` gets options of the given dataclass.
    """
    command = f"experiments.{name}"

    def main(cfg: DictConfig) -> None:
        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            options = checked(cfg, schema)
            log_to_wandb(name, options, folder, run)
        except (ValueError, OSError) as error:
            print(f"{command}: error: {' '.join(str(error).split())}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print(f"\n{command}: interrupted; the same command goes on", file=sys.stderr)
            sys.exit(130)

    hydra.main(str(CONF / name), "config", version_base="1.3")(main)()


def log_to_wandb(
    name: str, options: Any, folder: Path, run: Callable[[Any, Path], list[Row]]
) -> None:
    """Run, with options, curves and figures logged to wandb if its mode is not `disabled`."""
    resolved = OmegaConf.to_container(OmegaConf.structured(options))
    assert isinstance(resolved, dict)
    with wandb.init(
        project=options.wandb.project,
        mode=options.wandb.mode,
        dir=folder,
        name=f"{name}-{options.name}",
        config={str(k): v for k, v in resolved.items()},
        reinit="finish_previous",
    ) as log:
        rows = run(options, folder)
        if options.wandb.mode == "disabled":
            return
        for curve, points in curves(rows).items():
            for n, value in points:
                log.log({"n": n, curve: value})
        keys = sorted({k for row in rows for k in row if k != "setting"})
        table = wandb.Table(columns=["setting", *keys])
        for row in rows:
            table.add_data(json.dumps(row["setting"]), *(row.get(k) for k in keys))
        log.log({"results": table})
        log.log({p.stem: wandb.Image(str(p)) for p in sorted(folder.glob("*.png"))})


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
