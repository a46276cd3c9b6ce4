"""What there is to do: cells, in order of worth."""

from collections.abc import Iterator
from typing import NamedTuple

from experiments.language.options import Options, staged
from experiments.run.results import Row, settings_of


class Cell(NamedTuple):
    """One selection, its trainings and their test."""

    selector: str
    equal: str
    n: int


class Work(NamedTuple):
    """The cells of a setting's replicate, in order of worth."""

    setting: Row
    options: Options
    replicate: int
    cells: list[Cell]


def work(options: Options) -> Iterator[Work]:
    """Stage by stage, setting by setting, replicate by replicate."""
    for stage in staged(options):
        for setting, own in settings_of(stage):
            for replicate in range(own.replicates):
                yield Work(setting, own, replicate, [*cells(own)])


def cells(options: Options) -> Iterator[Cell]:
    """Uniform first, at the first budget; its further ones are counted in the first `equal`."""
    for name in options.selectors:
        for equal in options.equal:
            more = options.uniform_budgets if (name, equal) == ("uniform", options.equal[0]) else []
            yield from (Cell(name, equal, n) for n in dict.fromkeys([*options.budgets, *more]))
