"""How words of the command line become values."""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from fisher_jax.pipeline.request import OFFERED
from fisher_jax.selectors import listing
from fisher_jax.util.checks import did_you_mean
from fisher_jax.util.errors import UserError

NAME = "fisher-select"


def name_of(text: str) -> str:
    """An unset variable of a shell, or what no file's name or report could hold, is no name."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty: leave the option out or name something")
    if "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} has a zero byte: rename it first")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not UTF-8: rename it first") from None
    return text


def path(text: str) -> Path:
    """Of a file or a folder."""
    return Path(name_of(text))


def selector(text: str) -> str:
    """The name of a rule that is offered."""
    names = [rule.name for rule in OFFERED]
    if text not in names:
        raise argparse.ArgumentTypeError(
            f"there is no selector {text!r}: {did_you_mean(text, names)} (--list-selectors)"
        )
    return text


def number(text: str) -> float | int:
    """A whole number stays one."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def count(text: str) -> int:
    """Of things: a whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 0")
    return int(text)


class Caps(argparse.Action):
    """One cap, a word, or NAME=NUMBER as often as it is given."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any
    ) -> None:
        """See `argparse.Action`."""
        name, equals, cap = values.rpartition("=")
        try:
            cap = cap if cap.isalpha() else number(cap)
        except ValueError:
            raise argparse.ArgumentError(self, f"{cap!r} is no number") from None
        caps = getattr(namespace, self.dest, None)
        if caps is not None and isinstance(caps, dict) != bool(equals):
            raise argparse.ArgumentError(self, "give one cap for all groups, or NAME=NUMBER ones")
        caps = {**caps, name: cap} if isinstance(caps, dict) else {name: cap}
        setattr(namespace, self.dest, caps if equals else cap)


class NamesOf(argparse.Action):
    """No name, one, or a tuple of several."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any
    ) -> None:
        """See `argparse.Action`."""
        several = None if not values else values[0] if len(values) == 1 else tuple(values)
        setattr(namespace, self.dest, several)


class Listing(argparse.Action):
    """Prints the table of selectors and ends, as --help does."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        """See `argparse.Action`."""
        print(listing(OFFERED, min(120, shutil.get_terminal_size((100, 24)).columns)))
        parser.exit()


class Parser(argparse.ArgumentParser):
    """Its errors are a user's, told in one line."""

    def error(self, message: str) -> NoReturn:
        """See `argparse.ArgumentParser`."""
        raise UserError(f"{message} (see {NAME} --help)")
