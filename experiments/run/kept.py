"""Files of a run's folder, read so that damage is told by file and line."""

import json
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fisher_jax.util.errors import UserError

Row = dict[str, Any]
Options = TypeVar("Options")

REMEDY = "put it back from a copy, or take another folder"
AGAIN = "remove the line, and its work is done again"
KINDS = {"setting": dict, "replicate": int, "selector": str, "equal": str, "n": int, "texts": list}


def read_rows(path: Path) -> list[Row]:
    """Rows of a results.jsonl, none where there is no such file.

    Raises:
        UserError: a line that is no row of results.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines()
    return [_row(line, f"{path}, line {k}") for k, line in enumerate(lines, start=1)]


def _row(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is damaged ({error}): {AGAIN}") from None
    if not isinstance(row, dict) or not isinstance(row.get("setting"), dict):
        raise UserError(f"{where} is no row of results, it has no setting: {AGAIN}")
    for name, kind in KINDS.items():
        if name in row and not isinstance(row[name], kind):
            raise UserError(
                f"{where} is no row of results, its {name} is {row[name]!r:.60}: {AGAIN}"
            )
    return row


def having(rows: list[Row], folder: Path, *names: str) -> list[Row]:
    """The rows of a run, all of which have these.

    Raises:
        UserError: one has not.
    """
    for k, row in enumerate(rows, start=1):
        if lacking := [name for name in names if row.get(name) is None]:
            raise UserError(f"{folder}: row {k} of its results has no {lacking[0]}: {AGAIN}")
    return rows


def read_options(path: Path) -> dict[str, Any]:
    """All options of a run, by name.

    Raises:
        UserError: no file, or none with options.
    """
    try:
        options = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        told = " ".join(str(error).split())
        raise UserError(f"{path} can't be read as options ({told}): {REMEDY}") from None
    if not isinstance(options, dict) or not options:
        raise UserError(f"{path} holds no options: {REMEDY}")
    return {str(key): value for key, value in options.items()}


def options_as(path: Path, schema: type[Options]) -> Options:
    """The same as a dataclass.

    Raises:
        UserError: as above, or options of another experiment.
    """
    options = read_options(path)
    try:
        return schema(**options)
    except TypeError as error:
        raise UserError(f"{path} has options of another experiment ({error}): {REMEDY}") from None


def read_facts(path: Path) -> Row:
    """A JSON object, such as that of what made a run's rows.

    Raises:
        UserError: no file, or no JSON object.
    """
    facts = read_json(path)
    if not isinstance(facts, dict):
        raise UserError(f"{path} is no JSON object: {REMEDY}")
    return facts


def read_json(path: Path) -> Any:
    """Any JSON.

    Raises:
        UserError: no file, or no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read as JSON ({error}): {REMEDY}") from None
