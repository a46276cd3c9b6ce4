"""Results of an experiment on disk: rows of finished settings that survive a kill."""

import gzip
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fisher_jax.data import replacing
from fisher_jax.provenance import provenance

Row = dict[str, Any]

RESULTS = "results.jsonl"
RESOLVED = "config.yaml"
PROVENANCE = "provenance.json"
RUNTIME_KEYS = ("wandb", "overwrite")  # options that change no result


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
        with replacing(folder / PROVENANCE) as temporary:
            temporary.write_text(json.dumps(provenance(), indent=2) + "\n")
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
    """Rows of a results.jsonl or .jsonl.gz, none where there is no such file."""
    if not path.exists():
        return []
    data = path.read_bytes()
    data = gzip.decompress(data) if path.suffix == ".gz" else data
    return [json.loads(line) for line in data.splitlines()]


def rounded(row: Row) -> Row:
    """Floats with six digits: what the figures need, in files that are kept."""
    return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()}


def settings(grid: dict[str, list]) -> Iterator[Row]:
    """Every combination of a grid's values, as the options that each setting changes."""
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))
