"""Tables of the language experiment: differences within replicates, tokens to match, judges."""

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from experiments.report.statistics import Estimate, by_replicate, estimate, group, matching
from experiments.run.results import Row

RESAMPLES = 2000
Table = tuple[list[str], list[list[str]]]  # head and lines


def difference(rows: Sequence[Row], others: Sequence[Row], metric: str) -> Estimate:
    """Mean difference within replicates, first less second; negative where the first is better."""
    a, b = by_replicate(rows, metric), by_replicate(others, metric)
    return estimate(a[r] - b[r] for r in sorted(a.keys() & b.keys()))


def two_level(rows: Sequence[Row], others: Sequence[Row], seed: int = 0) -> tuple[float, float]:
    """95% percentiles of the difference in nats a token, replicates and test rows resampled.

    Over all tokens, of whatever domain.
    """
    a, b, counts = (
        by_replicate(some, key)
        for some, key in ((rows, "test_nll"), (others, "test_nll"), (rows, "test_tokens"))
    )
    parts = [  # of a replicate, and a test row a line: difference in nats, and its tokens
        np.transpose([np.subtract(a[r], b[r]), counts[r]]) for r in sorted(a.keys() & b.keys())
    ]
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(RESAMPLES):
        drawn = [parts[k] for k in rng.integers(len(parts), size=len(parts))]
        sums = [d[rng.integers(len(d), size=len(d))].sum(axis=0) for d in drawn]
        means.append(np.mean([loss / count for loss, count in sums]))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


class Match(NamedTuple):
    """How many times as many uniform tokens or rows do as well.

    Attributes:
        log_ratio: mean over replicates.
        above, below: replicates beyond the curve's ends, where the end was taken.
        n: replicates.
    """

    log_ratio: Estimate
    above: int
    below: int
    n: int

    def __str__(self) -> str:
        mean, half = self.log_ratio
        beyond = self.above + self.below
        if self.above and self.below:
            return "beyond the curve on both sides"
        if beyond:
            side = "least" if self.above else "most"
            return f"at {side} {np.exp(mean):.2f} ({beyond} of {self.n} at the end)"
        return f"{np.exp(mean):.2f} ({np.exp(mean - half):.2f} to {np.exp(mean + half):.2f})"


def to_match(rows: Sequence[Row], curve: Sequence[Row], unit: str = "tokens") -> Match:
    """log of (tokens or rows that the curve needs for the same NLL / those of these rows).

    Linear interpolation of the curve in the log of the unit within a replicate.
    """
    ratios, above, below = [], 0, 0
    for (replicate,), own in group(curve, "replicate").items():
        points = sorted((r[unit], r["held_out_nll"]) for r in own)
        x, y = np.log([p[0] for p in points]), np.array([p[1] for p in points])
        y = np.minimum.accumulate(y)[::-1]  # ascending, as np.interp wants it
        for row in (r for r in rows if r["replicate"] == replicate):
            loss = row["held_out_nll"]
            ratios.append(np.interp(loss, y, x[::-1]) - np.log(row[unit]))
            above, below = above + (loss < y[0]), below + (loss > y[-1])
    return Match(estimate(ratios), int(above), int(below), len(ratios))


def length_and_content(
    rows: Sequence[Row], uniform: Sequence[Row], curve: Sequence[Row]
) -> tuple[Estimate, Estimate]:
    """The advantage over uniform at equal examples, split in two (nats a token, positive is good).

    Length: what uniform gains by as many tokens as the selection has (interpolated in log tokens);
    content: what is left.
    """
    length, content = [], []
    of_uniform = by_replicate(uniform, "held_out_nll")
    for row in rows:
        points = sorted(
            (r["tokens"], r["held_out_nll"]) for r in curve if r["replicate"] == row["replicate"]
        )
        x, y = np.log([p[0] for p in points]), [p[1] for p in points]
        same_tokens = float(np.interp(np.log(row["tokens"]), x, y))
        length.append(of_uniform[row["replicate"]] - same_tokens)
        content.append(same_tokens - row["held_out_nll"])
    return estimate(length), estimate(content)


def tokens_a_row(rows: Sequence[Row]) -> float:
    """Mean over replicates."""
    return float(np.mean([r["tokens"] / r["rows"] for r in rows]))


def nats(e: Estimate, digits: int = 4) -> str:
    """A difference with its interval, bold where that excludes zero."""
    if np.isnan(e.half):
        return f"{e.mean:+.{digits}f} (one replicate)"
    text = f"{e.mean:+.{digits}f} ± {e.half:.{digits}f}"
    return f"**{text}**" if e.excludes_zero else text


def rate(value: Sequence[float | None], digits: int = 2) -> str:
    """A share with its interval; none where nothing was decided."""
    if None in value:
        return "none"
    mean, low, high = (f"{x:.{digits}f}" for x in value)
    return f"{mean} ({low} to {high})"


class LanguageTables:
    """Tables of one finished (or partial) language run."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def of(self, **wanted: object) -> list[Row]:
        """Rows with these values, of the row itself or of its setting."""
        return matching(self.rows, **wanted)

    def by_selector(
        self,
        corner: str,
        columns: dict[str, Row],
        cell: Callable[[list[Row], Row], str],
        skip: str = "",
    ) -> Table:
        """A line a selector; a column's name goes with the values that its rows have."""
        lines = []
        for (name,) in group(self.rows, "selector"):
            if name == skip:
                continue
            found = ((self.of(selector=name, **where), where) for where in columns.values())
            lines.append([name, *(cell(own, where) if own else "not run" for own, where in found)])
        return [corner, *columns], lines

    def main(self) -> Table:
        """Difference to uniform in held-out NLL for each kind of budget and n."""

        def cell(own: list[Row], where: Row) -> str:
            if own[0]["selector"] == "uniform":
                nll, bits = (
                    np.mean([r[k] for r in own]) for k in ("held_out_nll", "bits_per_byte")
                )
                return f"{nll:.4f} ({bits:.3f} bits a byte)"
            return nats(difference(own, self.of(selector="uniform", **where), "held_out_nll"))

        return self.by_selector("NLL a token less uniform's", self._budgets(), cell)

    def lengths(self) -> Table:
        """Mean tokens of a chosen row."""
        return self.by_selector(
            "tokens a row", self._budgets(), lambda own, _: f"{tokens_a_row(own):.1f}"
        )

    def against(
        self, opponents: Sequence[str], key: str, equal: str, n: int, metric: str = "held_out_nll"
    ) -> Table:
        """Difference of every selector to each opponent, a column a value of `key`."""
        columns = self._values(key, equal=equal, n=n)
        lines = []
        for (name,) in group(self.rows, "selector"):
            for opponent in opponents:
                if name == opponent or name == "uniform":
                    continue
                cells = []
                for where in columns.values():
                    own, base = (self.of(selector=s, **where) for s in (name, opponent))
                    cells.append(nats(difference(own, base, metric)) if own and base else "not run")
                lines.append([name, opponent, *cells])
        return ["selector", "against", *columns], lines

    def matches(self, key: str, equal: str, n: int, base: str = "uniform") -> Table:
        """Tokens that uniform rows need to do as well, as a multiple, for each value of `key`."""
        return self._matches(self._values(key, equal=equal, n=n), base)

    def matches_by_n(self, equal: str, ns: Sequence[int], base: str = "uniform") -> Table:
        """The same for several budgets of the one pool; at equal examples uniform's rows."""
        columns = {f"equal {equal}, n = {n}": {"equal": equal, "n": n} for n in ns}
        return self._matches(columns, base, "rows" if equal == "examples" else "tokens")

    def _matches(self, columns: dict[str, Row], base: str, unit: str = "tokens") -> Table:
        def cell(own: list[Row], where: Row) -> str:
            setting = {k: v for k, v in where.items() if k not in ("n", "equal")}
            return str(to_match(own, self._curve(base, **setting), unit))

        return self.by_selector(f"uniform {unit} to match", columns, cell, skip=base)

    def shares(self, key: str, n: int) -> Table:
        """Mean shares of the chosen rows by kind in percent, and tokens a row, at equal tokens."""

        def cell(own: list[Row], where: Row) -> str:
            kinds = sorted({k for r in own for k in r["shares"]} - {"own"})
            of_kind = {k: np.mean([r["shares"].get(k, 0) for r in own]) for k in kinds}
            parts = ", ".join(f"{k} {100 * share:.0f}" for k, share in of_kind.items())
            return f"{parts}; {tokens_a_row(own):.0f} tokens a row"

        columns = self._values(key, equal="tokens", n=n)
        return self.by_selector("% of the rows", columns, cell)

    def fractions(self, n_pool: int) -> Table:
        """NLL less that of training on the whole pool, by the share of its tokens or rows."""
        whole = self.of(selector="uniform", n=n_pool)

        def cell(own: list[Row], where: Row) -> str:
            return nats(difference(own, whole, "held_out_nll"))

        columns = {
            f"{100 * n / n_pool:.0f}% of the {unit}": {"equal": unit, "n": n}
            for unit in ("tokens", "examples")
            for (n,) in sorted(group(self.of(equal=unit), "n"))
            if n < n_pool
        }
        return self.by_selector("NLL a token less the whole pool's", columns, cell)

    def exchanged(self, key: str, before: object, after: object, others: str, n: int) -> Table:
        """What another value of an option changes, at equal tokens, columns by `others`.

        The share of the rows that a selector picks with both, `2 |AB| / (|A| + |B|)`, and the
        held-out NLL after less that before.
        """

        def cell(own: list[Row], _: Row) -> str:
            of_value = group(own, key)
            first, second = (of_value.get((v,), []) for v in (before, after))
            a, b = by_replicate(first, "chosen"), by_replicate(second, "chosen")
            if not a.keys() & b.keys():
                return "not run"
            shared = [
                2 * len({*a[k]} & {*b[k]}) / (len(a[k]) + len(b[k])) for k in a.keys() & b.keys()
            ]
            return f"{np.mean(shared):.2f}; {nats(difference(second, first, 'held_out_nll'))}"

        columns = self._values(others, equal="tokens", n=n)
        return self.by_selector("rows in common; NLL", columns, cell)

    def variants(self, key: str, n: int) -> Table:
        """Every variant's validation loss less uniform's, one replicate."""

        def cell(own: list[Row], where: Row) -> str:
            base = self.of(selector="uniform", **where)
            return f"{own[0]['validation_nll'] - base[0]['validation_nll']:+.4f}"

        return self.by_selector("validation NLL less uniform's", self._values(key, n=n), cell)

    def parts(self, n: int) -> dict[str, tuple[Estimate, Estimate]]:
        """Advantage at equal examples = length part + content part, a selector each."""
        uniform = self.of(selector="uniform", equal="examples", n=n)
        curve = self._curve("uniform")
        found = {}
        for (name,) in group(self.rows, "selector"):
            own = self.of(selector=name, equal="examples", n=n)
            if name != "uniform" and own:
                found[name] = length_and_content(own, uniform, curve)
        return found

    def sentences(self, equal: str, n: int) -> Table:
        """Two-level bootstrap of the difference to uniform, nats a token."""
        base = self.of(selector="uniform", equal=equal, n=n)
        lines = []
        for (name,) in group(self.rows, "selector"):
            own = self.of(selector=name, equal=equal, n=n)
            if name != "uniform" and own:
                low, high = two_level(own, base)
                lines.append([name, f"{low:+.4f} to {high:+.4f}"])
        return [f"nats a token less uniform's, equal {equal}, n = {n}", "95% interval"], lines

    def _curve(self, name: str, **setting: object) -> list[Row]:
        """A selector's rows in the unit that further budgets are counted in, the first."""
        return self.of(selector=name, equal=self.rows[0]["equal"], **setting)

    def _budgets(self) -> dict[str, Row]:
        """A column for each kind of budget and n at which more than uniform was run."""
        found = {
            f"equal {k}, n = {n}": {"equal": k, "n": n} for k, n in group(self.rows, "equal", "n")
        }
        return {k: v for k, v in found.items() if len(group(self.of(**v), "selector")) > 1}

    def _values(self, key: str, **others: object) -> dict[str, Row]:
        """A column for each value of `key`."""
        return {str(v): {key: v, **others} for (v,) in group(self.rows, key)}


def picked(found: Row, names: Sequence[str]) -> Table:
    """What the first picks of these selectors have in common."""

    def line(name: str, of: dict[str, float]) -> list[str]:
        numbers = [f"{of['tokens']:.1f}", f"{of['rare']:.2f}", f"{of['repeats']:.2f}"]
        return [name, *numbers, f"{of['loss']:.2f}", f"{of['energy']:.2f}"]

    chosen = found["selectors"]
    lines = [line(name, chosen[name]["first"]) for name in names if name in chosen]
    head = ["first 20", "tokens a row", "in no other row", "repeated in the row", "loss (nats)"]
    return [*head, "squared norm"], [line("the pool", found["pool"]), *lines]


def length_bias(found: Row) -> Table:
    """How long the rows are that each selector takes, longest on average first.

    Order and length: rank correlation over the chosen rows, above 0 where longer ones come first.
    """
    lines = []
    for name, of in sorted(found["selectors"].items(), key=lambda kv: -kv[1]["all"]["tokens"]):
        tokens, information = of["all"]["tokens"], of["log_det"]
        lines.append(
            [
                name,
                f"{tokens:.1f} ({tokens / found['pool']['tokens']:.2f})",
                " / ".join(f"{q:.0f}" for q in of["length_quantiles"]),
                f"{order:+.2f}" if (order := of["order_and_length"]) is not None else "equal",
                f"{information:.0f}",
                f"{information / tokens / of['n']:.3f}",
            ]
        )
    head = [f"n = {found['n']}", "tokens a row (pool's = 1)", "10 / 50 / 90%"]
    return [*head, "order and length", "information, nats", "nats a token"], lines


def judged(text: str, pairs_a_model: int) -> Table:
    """Win rates of each selector against uniform; pairs are in order of the models (replicates)."""
    half = {"a": 1.0, "tie": 0.5, "b": 0.0}  # of a pair
    lines = []
    for entry in json.loads(text):
        t, winners = entry["tally"], entry["winners"]
        of_model = [
            [half[w] for w in winners[begin : begin + pairs_a_model] if w in half]
            for begin in range(0, len(winners), pairs_a_model)
        ]
        lines.append(
            [
                entry["judge"],
                entry["naming"],
                entry["selector"],
                f"equal {entry['equal']}, n = {entry['n']}",
                str(t["n_pairs"]),
                rate(t["win_rate_clustered"]),
                rate(t["half_ties"]),
                "{:.2f} ± {:.2f}".format(*estimate(sum(own) / len(own) for own in of_model if own)),
                f"{t['ties']} + {t['unparsable']}",
                f"{t['position_1']:.2f}",
                rate(t["probability_a"], 3) if t["probability_a"] else "",
            ]
        )
    head = ["judge", "named", "selector", "at", "pairs", "wins of decided", "with half ties"]
    return [*head, "the same over models", "ties + unread", "position 1", "mean probability"], lines
