"""What a language run's models wrote, and which of their texts are compared."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from experiments.judging.judge import Pair
from experiments.language.options import Options
from experiments.language.preparation import pool_of
from experiments.language.writing import prompted
from experiments.report.statistics import group
from experiments.run.kept import AGAIN, Row, having, options_as
from experiments.run.packed import read_folder
from experiments.run.results import RESOLVED, RESULTS
from fisher_jax.util.errors import UserError

CORPUS_NAMES = {
    "shakespeare": "Shakespeare",
    "tiny_shakespeare": "Shakespeare",
    "sherlock": "Sherlock",
    "sherlock_whole": "Sherlock",
}


class Contest(NamedTuple):
    """Two selectors whose texts are compared; the setting as JSON."""

    setting: str
    selector: str
    against: str
    equal: str
    n: int

    @property
    def title(self) -> str:
        """In words."""
        where = "" if self.setting == "{}" else f" {self.setting}"
        return f"{self.selector} against {self.against}, equal {self.equal}, n = {self.n}{where}"


class Written(NamedTuple):
    """A prompt, how its test row goes on, and how a model went on."""

    prompt: str
    real: str
    text: str


Place = tuple[int, int]  # replicate, number of the prompt


def _check_texts(rows: list[Row], folder: Path) -> None:
    """Refuse rows that have not a text for each of their setting's prompts."""
    most: dict[str, int] = {}  # of a setting's rows: one for each prompt
    for row in rows:
        most[str(row["setting"])] = max(most.get(str(row["setting"]), 0), len(row["texts"]))
    for k, row in enumerate(rows, start=1):
        n, found = most[str(row["setting"])], [x for x in row["texts"] if isinstance(x, str)]
        if len(found) != n or len(row["texts"]) != n:
            raise UserError(
                f"{folder}: row {k} with texts has not one for each of {n} prompts: {AGAIN}"
            )


class Texts:
    """What the models of a run wrote.

    Raises:
        ValueError: a folder without texts.
    """

    def __init__(self, folder: Path) -> None:
        rows = [row for row in read_folder(folder) if "texts" in row]
        rows = having(rows, folder, "replicate", "selector", "equal", "n")
        if not rows:
            raise UserError(
                f"{folder / RESULTS} has no texts: run an experiment with n_prompts, such as "
                "experiment=cpu"
            )
        _check_texts(rows, folder)
        self._options = options_as(folder / RESOLVED, Options)
        self._rows = group(
            ({**row, "setting_json": json.dumps(row["setting"], sort_keys=True)} for row in rows),
            "setting_json", "selector", "equal", "n",
        )  # fmt: skip
        self.pairs: Callable[[Contest], list[Pair]] = cache(self._pairs)
        self._prompted = cache(
            lambda setting, replicate: prompted(
                pool_of(self.options(setting), replicate).test, self.options(setting)
            )
        )

    def options(self, setting: str) -> Options:
        """Of one setting."""
        return replace(self._options, **json.loads(setting), grid={})

    def corpus(self, comparison: Contest, name: str | None) -> str:
        """Its name in a judge's prompt."""
        corpus = self.options(comparison.setting).corpus
        name = name or CORPUS_NAMES.get(corpus)
        if name is None:
            raise UserError(
                f"what a judge of {corpus} is a judge of is not known: pass --corpus-name"
            )
        return name

    def comparisons(self, against: Sequence[str]) -> list[Contest]:
        """Every selector with each of these, wherever both wrote."""
        return [
            Contest(setting, name, other, equal, n)
            for setting, name, equal, n in self._rows
            for other in against
            if name not in ("uniform", other) and (setting, other, equal, n) in self._rows
        ]

    def _pairs(self, comparison: Contest) -> list[Pair]:
        """Continuations of the same prompts in all replicates that both have."""
        setting, name, other, equal, n = comparison
        own, base = (
            {row["replicate"]: row["texts"] for row in self._rows.get((setting, s, equal, n), [])}
            for s in (name, other)
        )
        return [
            Pair(*three)
            for replicate in own
            if replicate in base
            for three in zip(
                (p.prompt for p in self._prompted(setting, replicate)),
                own[replicate],
                base[replicate],
                strict=True,
            )
        ]

    def selectors(self, setting: str) -> list[str]:
        """Whose models wrote in a setting."""
        return list(dict.fromkeys(name for own, name, _, _ in self._rows if own == setting))

    @property
    def settings(self) -> list[str]:
        """All, as JSON."""
        return list(dict.fromkeys(setting for setting, *_ in self._rows))

    def written(self, setting: str, selector: str) -> dict[tuple[str, int], dict[Place, Written]]:
        """What a selector's models wrote in a setting, by kind of budget and n, then by place."""
        return {
            (equal, n): {
                (row["replicate"], i): Written(*prompt, text)
                for row in rows
                for i, (prompt, text) in enumerate(
                    zip(self._prompted(setting, row["replicate"]), row["texts"], strict=True)
                )
            }
            for (own, name, equal, n), rows in self._rows.items()
            if (own, name) == (setting, selector)
        }


def comparison_of(entry: Row) -> Contest:
    """Of a kept entry."""
    setting = json.dumps(entry.get("setting", {}), sort_keys=True)
    against = entry.get("against", "uniform")
    return Contest(setting, entry["selector"], against, entry["equal"], entry["n"])


def digest(pairs: list[Pair]) -> str:
    """Tells texts apart."""
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:16]
