"""A run again: the options of its manifest, and what the command line changes of them."""

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fisher_jax.command.arguments import parser
from fisher_jax.pipeline.request import OF_MODEL
from fisher_jax.selectors import SELECTORS
from fisher_jax.util.errors import UserError

# of each only one way may be taken; and what goes with one of them
RIVALS = (
    ({"n_samples"}, {"fraction"}, {"token_budget"}),
    ({"model"}, {"embeddings"}),
    ({"format"}, {"text_column"}, {"messages_column"}, {"prompt_column", "completion_column"}),
)
FOLLOWERS = {
    "token_budget": {"cost_column"},  # its unit
    "model": {*OF_MODEL, "targets", "initial"},
    "embeddings": {"target_embeddings", "initial_embeddings"},
}


def arguments_of(argv: Sequence[str], half: str = "") -> argparse.Namespace:
    """The arguments; with --config those of a manifest, where the command line has no others.

    Its options become words of a command line, so that they are checked as such. What is given
    takes the place of its rivals: a budget of any other, a model of embeddings, a selector of
    itself among those compared, and of devices that it does not use. `overwrite` is never taken
    over, nor a report's folder where OUT is given.

    Raises:
        UserError: arguments that can't be, or a manifest.
    """
    argv = [*argv]
    config = any(word.partition("=")[0] == "--config" for word in argv)
    if not config or {"-h", "--help", "--version", "--list-selectors"} & {*argv}:
        return parser(half).parse_args(argv)
    given = _given(argv, half)
    options = _manifest(given["config"])["options"]
    dropped = {*given, "overwrite"}
    for ways in RIVALS:
        for way in ways:
            if way & {*given}:
                rivals = set().union(*(other for other in ways if other is not way))
                dropped |= rivals.union(*(FOLLOWERS.get(rival, ()) for rival in rivals))
    if "selector" in given and not SELECTORS[given["selector"]].divides:
        dropped.add("devices")
    if "out" in given:
        dropped.add("report_dir")
    if isinstance(compared := options.get("compare"), list):
        options["compare"] = [name for name in compared if name != given.get("selector")]
    try:
        words = [
            word
            for name, of in options.items()
            if name not in dropped
            for word in _words(name, of, half)
        ]
        return parser(half).parse_args([*words, *argv])
    except UserError as error:
        raise UserError(f"{given['config']}: {error}") from None


def changed_since(config: Path, facts: Mapping[str, Any]) -> list[str]:
    """A sentence on each file that is not what it was in a manifest's run."""
    earlier = _manifest(config)["result"]
    names = [name.removesuffix("_sha256") for name in facts if name.endswith("_sha256")]
    return [
        f"{facts.get(name, f'The {name}')} has changed since {config}."
        for name in names
        if earlier.get(f"{name}_sha256", facts[f"{name}_sha256"]) != facts[f"{name}_sha256"]
    ]


def _given(argv: Sequence[str], half: str) -> dict[str, Any]:
    """What the command line says, without defaults."""
    bare = parser(half)
    for action in bare._actions:
        action.default, action.required = argparse.SUPPRESS, False
    return vars(bare.parse_args(argv))


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"can't read `config` {path} ({error.strerror}): name a manifest") from None
    except (ValueError, RecursionError):
        raise UserError(f"`config` {path} is no JSON: name a manifest.json of a report") from None
    parts = [
        manifest.get(part) if isinstance(manifest, dict) else None for part in ("options", "result")
    ]
    if not all(isinstance(part, dict) for part in parts):
        raise UserError(f"`config` {path} has no options: name a manifest.json of a report")
    return manifest


def _words(name: str, value: Any, half: str) -> Iterator[str]:
    """An option as words of the command line."""
    actions = {action.dest: action for action in parser(half)._actions}
    if name not in actions:
        raise UserError(f"there is no option {name!r}: it is of another version, or misspelt")
    if isinstance(value, str) and re.fullmatch(r"an? \w+ in Python", value):
        raise UserError(f"`{name}` was {value}: name a file")
    flags = actions[name].option_strings
    if value is None:
        return
    if not flags:
        yield from map(str, value if isinstance(value, list) else [value])
    elif isinstance(value, bool):
        switched = {True: flags[0], False: f"--no-{name}"}[value]
        if value or switched in flags:
            yield switched
    elif isinstance(value, list) and actions[name].nargs == "+":
        yield from map(str, [flags[-1], *value] if value else [])
    elif isinstance(value, dict):
        yield from (f"{flags[-1]}={key}={of}" for key, of in value.items())
    else:
        yield f"{flags[-1]}={value}"
