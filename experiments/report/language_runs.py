"""Pages of the language runs: losses beside uniform's and other opponents', tokens to match."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.judging.main import CALIBRATED, JUDGED, REALNESS
from experiments.language import cells
from experiments.language.noise import NOISE
from experiments.language.options import Options
from experiments.language.picks import PICKS
from experiments.report import language_texts as texts
from experiments.report.comparisons import compared, panels
from experiments.report.figures import learning_curves
from experiments.report.forest import Panel, forest, parts
from experiments.report.language_measures import (
    common_rows,
    length_and_content,
    to_match,
    tokens_a_row,
    two_level,
)
from experiments.report.runs import Run
from experiments.report.statistics import Estimate, difference, group
from experiments.report.tables import Cell, Compared, nats, table
from experiments.run.harness import checked
from experiments.run.results import Row

NLL = "held_out_nll"


class LanguageRun(Run):
    """A finished or partial language run."""

    @property
    def partial(self) -> str:
        """What of the committed grid is missing, if anything."""
        done = {
            (
                json.dumps(r["setting"], sort_keys=True),
                r["replicate"],
                *map(r.get, cells.Cell._fields),
            )
            for r in self.rows
        }
        asked = {
            (json.dumps(of.setting, sort_keys=True), of.replicate, *cell)
            for of in cells.work(checked(self.today, Options))
            for cell in of.cells
        }
        missing = len(asked - done)
        return (
            f"**A partial grid: {missing} of its {len(asked)} cells are missing.**"
            if missing
            else ""
        )

    def less(
        self, selector: str, opponent: str = "uniform", metric: str = NLL, **point: Any
    ) -> Estimate:
        """A selector's loss less an opponent's within replicates, nats a token."""
        rows, others = (self.of(selector=name, **point) for name in (selector, opponent))
        return difference(rows, others, metric)

    def told(self, selector: str, opponent: str = "uniform", **point: Any) -> Compared:
        """The same, for prose."""
        return nats(self.less(selector, opponent, **point))

    def opponents(self, opponents: Sequence[str], key: str, n: int, metric: str = NLL) -> str:
        """A picture of the losses less each opponent's, equal tokens, a panel a value of `key`."""
        of_value: dict[str, Panel] = {}
        for value in self.values(key):
            point = {key: value, "equal": "tokens", "n": n}
            names = [
                s
                for s in self.values("selector")
                if s != "uniform" and self.of(selector=s, **point)
            ]
            of_value[str(value)] = {
                f"less {opponent}": {
                    name: self.less(name, opponent, metric, **point)
                    for name in names
                    if name != opponent
                }
                for opponent in opponents
                if self.of(selector=opponent, **point)
            }
        label = f"{metric.replace('_', ' ')} less an opponent's, nats a token; left is better"
        return self.picture(forest(of_value, label, {"level": 0}), f"forest_{metric}", label)

    def budgets(self) -> str:
        """A picture of the losses less uniform's, equal tokens and equal examples side by side."""
        of_value: dict[str, Panel] = {}
        for point in self._budgets().values():
            names = [s for s in self.values("selector") if self.of(selector=s, **point)]
            of_name = {name: self.less(name, **point) for name in names if name != "uniform"}
            of_value.setdefault(f"equal {point['equal']}", {})[f"n = {point['n']}"] = of_name
        label = "held-out NLL less uniform's, nats a token; left is better"
        return self.picture(forest(of_value, label, {"uniform": 0}), "forest_budgets", label)

    def losses(self) -> str:
        """Held-out NLL less uniform's for each kind of budget and n."""

        def cell(rows: list[Row], point: Row) -> Cell:
            if rows[0]["selector"] == "uniform":
                nll, bits = (np.mean([r[k] for r in rows]) for k in (NLL, "bits_per_byte"))
                return f"{nll:.3f} ({bits:.3f} bits a byte)"
            return self._less(rows, "uniform", NLL, point)

        return self._by_selector("NLL a token less uniform's", self._budgets(), cell)

    def losses_by(self, key: str, n: int, opponent: str = "uniform", metric: str = NLL) -> str:
        """Losses less an opponent's at equal tokens, a column a value of `key`."""

        def cell(rows: list[Row], point: Row) -> Cell:
            return self._less(rows, opponent, metric, point)

        corner = f"{metric.replace('_', ' ')} less {opponent}'s"
        return self._by_selector(
            corner, self._values(key, equal="tokens", n=n), cell, skip=opponent
        )

    def lengths(self) -> str:
        """Mean tokens of a chosen row."""
        return self._by_selector(
            "tokens a row", self._budgets(), lambda rows, _: f"{tokens_a_row(rows):.1f}"
        )

    def matches(self, key: str, n: int) -> str:
        """Tokens that uniform rows need to do as well, as a multiple, for each value of `key`."""
        return self._matches(self._values(key, equal="tokens", n=n), "tokens")

    def matches_by_n(self, equal: str, ns: Sequence[int]) -> str:
        """The same for several budgets of the one pool; at equal examples uniform's rows."""
        columns = {f"equal {equal}, n = {n}": {"equal": equal, "n": n} for n in ns}
        return self._matches(columns, "rows" if equal == "examples" else "tokens")

    def match(self, selector: str, unit: str, **point: object) -> str:
        """The same of one selector, for prose."""
        where = {k: v for k, v in point.items() if k not in ("n", "equal")}
        return str(to_match(self.of(selector=selector, **point), self._curve(**where), unit))

    def shares(self, key: str, n: int) -> str:
        """Mean shares of the chosen rows by kind in percent, and tokens a row, at equal tokens."""

        def cell(rows: list[Row], _: Row) -> Cell:
            kinds = sorted({k for r in rows for k in r["shares"]} - {"own"})
            of_kind = {k: np.mean([r["shares"].get(k, 0) for r in rows]) for k in kinds}
            told = ", ".join(f"{k} {100 * share:.0f}" for k, share in of_kind.items())
            return f"{told}; {tokens_a_row(rows):.0f} tokens a row"

        return self._by_selector("% of the rows", self._values(key, equal="tokens", n=n), cell)

    def fractions(self, n_pool: int) -> str:
        """NLL less that of training on the whole pool, by the share of its tokens or rows."""
        whole = self.of(selector="uniform", n=n_pool)
        columns = {
            f"{100 * n / n_pool:.0f}% of the {unit}": {"equal": unit, "n": n}
            for unit in ("tokens", "examples")
            for (n,) in sorted(group(self.of(equal=unit), "n"))
            if n < n_pool
        }
        return self._by_selector(
            "NLL a token less the whole pool's",
            columns,
            lambda rows, _: nats(difference(rows, whole, NLL)),
        )

    def exchanged(self, key: str, before: object, after: object, others: str, n: int) -> str:
        """Rows in common under two values of an option, and the second's loss less the first's.

        At equal tokens, a column a value of `others`.
        """

        def cell(rows: list[Row], point: Row) -> Cell:
            of_value = group(rows, key)
            first, second = (of_value.get((v,), []) for v in (before, after))
            if not {r["replicate"] for r in first} & {r["replicate"] for r in second}:
                return "not run"
            loss = nats(difference(second, first, NLL))
            return Compared(f"{common_rows(first, second):.2f}; {loss}", loss.p)

        columns = self._values(others, equal="tokens", n=n)
        return self._by_selector("rows in common; NLL", columns, cell)

    def by_proxy(self, pool: str, n: int) -> str:
        """Losses less uniform's of the model's own choice and of the proxy's, for one pool."""
        columns = {
            who: {"proxy": proxy, "pool": pool, "equal": "tokens", "n": n}
            for who, proxy in zip(("own choice", "the proxy's"), self.values("proxy"), strict=True)
        }
        return self._by_selector(
            pool, columns, lambda rows, point: self._less(rows, "uniform", NLL, point), "uniform"
        )

    def compared(self, rule: str, opponents: Sequence[str], key: str) -> str:
        """A rule against its opponents at every point, a picture and a table."""
        label = f"held-out NLL, {rule}'s less an opponent's, nats a token; left is better"
        of_value = dict(panels(self.rows, rule, opponents, key))
        figure = forest(of_value, label, {"level": 0}) if of_value else None
        picture = f"{self.picture(figure, 'forest_opponents', label)}\n\n" if figure else ""
        lost = {
            name: n
            for name in self.values("selector")
            if (n := sum(row["diverged"] for row in self.of(selector=name)))
        }
        told = ", ".join(f"`{name}` {n}" for name, n in lost.items()) or "none"
        return (
            f"{picture}{compared(self.rows, rule, opponents, key)}\n\n"
            f"Trainings that diverged, at any rate, and are in no mean: {told}."
        )

    def variants(self, key: str, n: int) -> str:
        """Every variant's validation loss less uniform's."""

        def cell(rows: list[Row], point: Row) -> Cell:
            return self._less(rows, "uniform", "validation_nll", point)

        columns = self._values(key, n=n)
        return self._by_selector("validation NLL less uniform's", columns, cell, "uniform")

    def parts(self, n: int) -> dict[str, tuple[Estimate, Estimate]]:
        """Advantage at equal examples = length part + content part, a selector each."""
        uniform = self.of(selector="uniform", equal="examples", n=n)
        return {
            name: length_and_content(rows, uniform, self._curve())
            for name in self.values("selector")
            if name != "uniform" and (rows := self.of(selector=name, equal="examples", n=n))
        }

    def parts_figure(self, n: int) -> str:
        """A picture of the length and content parts at equal examples."""
        title = "advantage at equal examples, length part and content part"
        return self.picture(parts(self.parts(n)), "parts", title)

    def curves(self, key: str) -> str:
        """Held-out NLL against tokens, a panel a value of `key`."""
        panels = {str(v or ""): self.of(**{key: v}) for v in self.values(key)}
        return self.picture(learning_curves(panels), "curves", "held-out NLL against tokens")

    def sentences(self, equal: str, n: int) -> str:
        """Two-level bootstrap of the difference to uniform, nats a token."""
        uniform = self.of(selector="uniform", equal=equal, n=n)
        lines = []
        for name in self.values("selector"):
            rows = self.of(selector=name, equal=equal, n=n)
            if name != "uniform" and rows:
                lines.append([name, "{:+.3f} to {:+.3f}".format(*two_level(rows, uniform))])
        head = [f"nats a token less uniform's, equal {equal}, n = {n}", "95% of the resamples"]
        return table(head, lines)

    @property
    def picks(self) -> Row:
        """What `experiments.language.picks` found."""
        return json.loads((self.folder / PICKS).read_text())

    def picked(self) -> str:
        """What the run's own selectors take first."""
        return texts.picked(self.picks, self.options.selectors)

    def length_bias(self) -> str:
        """How long the rows are that every selector takes."""
        return texts.length_bias(self.picks)

    def samples(self, selectors: list[str], count: int) -> str:
        """The first texts of replicate 0 at equal tokens."""
        return texts.samples(self.rows, selectors, count)

    @property
    def calibrations(self) -> list[Row]:
        """How the judges did on pairs of known order."""
        return _read_list(self.folder / CALIBRATED)

    @property
    def verdicts(self) -> list[Row]:
        """Tallies of judges that failed on no kind of pair; none where the run was not judged."""
        failed = {row["judge"] for row in self.calibrations if not row["passes"]}
        return [v for v in _read_list(self.folder / JUDGED) if v["judge"] not in failed]

    def calibration(self) -> str:
        """Of every judge, beside its limits; and who has none."""
        known = {row["judge"] for row in self.calibrations}
        others = sorted({f"`{v['judge']}`" for v in self.verdicts if v["judge"] not in known})
        told = [texts.calibration(self.calibrations)] if known else []
        return "\n\n".join([*told, f"Not calibrated yet: {', '.join(others)}."] if others else told)

    @property
    def spreads(self) -> list[Row]:
        """What `experiments.language.noise` found: of trainings of the same rows, nats a token."""
        return _read_list(self.folder / NOISE)

    def noise(self) -> str:
        """The same as a table."""
        return texts.noise(self.spreads)

    def realness(self) -> str:
        """How near texts are to real ones, as sets."""
        rows = _read_list(self.folder / REALNESS)
        return texts.realness(rows) if rows else "Not measured."

    def judged(self) -> str:
        """Win rates against uniform by the judges that passed, if there is one."""
        if not self.verdicts:
            return "No judge has passed its calibration."
        return texts.judged(self.verdicts, self.options.n_prompts)

    def _less(self, rows: list[Row], opponent: str, metric: str, point: Row) -> Cell:
        others = self.of(selector=opponent, **point)
        return nats(difference(rows, others, metric)) if others else "not run"

    def _matches(self, columns: dict[str, Row], unit: str) -> str:
        def cell(rows: list[Row], point: Row) -> Cell:
            return self.match(rows[0]["selector"], unit, **point)

        return self._by_selector(f"uniform {unit} to match", columns, cell, skip="uniform")

    def _curve(self, **setting: object) -> list[Row]:
        """Uniform's rows in the unit that further budgets are counted in, the first."""
        return self.of(selector="uniform", equal=self.rows[0]["equal"], **setting)

    def _budgets(self) -> dict[str, Row]:
        """A column for each kind of budget and n at which more than uniform was run."""
        points = {
            f"equal {k}, n = {n}": {"equal": k, "n": n} for k, n in group(self.rows, "equal", "n")
        }
        return {k: v for k, v in points.items() if len(group(self.of(**v), "selector")) > 1}

    def _values(self, key: str, **others: object) -> dict[str, Row]:
        """A column for each value of `key`."""
        return {str(v): {key: v, **others} for v in self.values(key)}

    def _by_selector(
        self,
        corner: str,
        columns: dict[str, Row],
        cell: Callable[[list[Row], Row], Cell],
        skip: str = "",
    ) -> str:
        """A line a selector; a column's name goes with the values that its rows have."""
        lines: list[list[Cell]] = []
        for name in self.values("selector"):
            if name == skip:
                continue
            of_column = ((self.of(selector=name, **point), point) for point in columns.values())
            lines.append(
                [name, *(cell(rows, point) if rows else "not run" for rows, point in of_column)]
            )
        return table([corner, *columns], lines)


def _read_list(path: Path) -> list[Row]:
    return json.loads(path.read_text()) if path.exists() else []
