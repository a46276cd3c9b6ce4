"""Tables of the language experiment: differences within replicates, tokens to match, judges."""

import json
from collections.abc import Sequence

import numpy as np

from experiments.results import Row
from experiments.statistics import Estimate, by_replicate, estimate, group

RESAMPLES = 2000


def difference(rows: Sequence[Row], others: Sequence[Row], metric: str) -> Estimate:
    """Mean difference within replicates, first less second; negative where the first is better."""
    a, b = by_replicate(rows, metric), by_replicate(others, metric)
    return estimate(a[r] - b[r] for r in sorted(a.keys() & b.keys()))


def two_level(rows: Sequence[Row], others: Sequence[Row], seed: int = 0) -> tuple[float, float]:
    """95% percentiles of the mean difference in nats a row, replicates and test rows resampled."""
    a, b = by_replicate(rows, "test_nll"), by_replicate(others, "test_nll")
    parts = [np.asarray(a[r]) - np.asarray(b[r]) for r in sorted(a.keys() & b.keys())]
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(RESAMPLES):
        drawn = [parts[k] for k in rng.integers(len(parts), size=len(parts))]
        means.append(np.mean([d[rng.integers(len(d), size=len(d))].mean() for d in drawn]))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def tokens_to_match(rows: Sequence[Row], curve: Sequence[Row]) -> Estimate:
    """log of (tokens that the curve's selector needs for the same NLL / tokens of these rows).

    Linear interpolation of the curve in log tokens within a replicate; values beyond its ends are
    set to the end, so a ratio that would be larger is counted too small.
    """
    ratios = []
    for (replicate,), own in group(curve, "replicate").items():
        points = sorted((r["tokens"], r["held_out_nll"]) for r in own)
        x, y = np.log([p[0] for p in points]), np.array([p[1] for p in points])
        y = np.minimum.accumulate(y)[::-1]  # ascending, as np.interp wants it
        for row in (r for r in rows if r["replicate"] == replicate):
            ratios.append(np.interp(row["held_out_nll"], y, x[::-1]) - np.log(row["tokens"]))
    return estimate(ratios)


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


def nats(e: Estimate, digits: int = 4) -> str:
    """A difference with its interval, bold where that excludes zero."""
    text = f"{e.mean:+.{digits}f} ± {e.half:.{digits}f}"
    return f"**{text}**" if e.excludes_zero else text


def times(e: Estimate) -> str:
    """A mean log-ratio as a factor with its interval; a bound where every replicate is at one."""
    if e.half < 0.02 and abs(e.mean) > 0.1:
        return f"at {'least' if e.mean > 0 else 'most'} {np.exp(e.mean):.1f}"
    return f"{np.exp(e.mean):.2f} ({np.exp(e.mean - e.half):.2f} to {np.exp(e.mean + e.half):.2f})"


def rate(value: Sequence[float | None]) -> str:
    """A share with its interval; none where nothing was decided."""
    if None in value:
        return "none"
    return f"{value[0]:.2f} ({value[1]:.2f} to {value[2]:.2f})"


class LanguageTables:
    """Tables of one finished (or partial) language run."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def of(self, **wanted: object) -> list[Row]:
        """Rows with these values, of the row itself or of its setting."""
        return [
            r
            for r in self.rows
            if all(r.get(k, r["setting"].get(k)) == v for k, v in wanted.items())
        ]

    def main(self) -> tuple[list[str], list[list[str]]]:
        """Difference to uniform in held-out NLL for each kind of budget and n."""
        columns = [k for k in group(self.rows, "equal", "n") if self._has(*k)]
        head = ["NLL a token less uniform's", *(f"equal {k}, n = {n}" for k, n in columns)]
        lines = []
        for (name,) in group(self.rows, "selector"):
            cells = []
            for kind, n in columns:
                own = self.of(selector=name, equal=kind, n=n)
                base = self.of(selector="uniform", equal=kind, n=n)
                if name == "uniform":
                    cells.append(f"{np.mean([r['held_out_nll'] for r in own]):.4f}")
                else:
                    cells.append(nats(difference(own, base, "held_out_nll")) if own else "not run")
            lines.append([name, *cells])
        return head, lines

    def against(
        self, opponents: Sequence[str], key: str, equal: str, n: int, metric: str = "held_out_nll"
    ) -> tuple[list[str], list[list[str]]]:
        """Difference of every selector to each opponent, a column a value of `key`."""
        values = [v for (v,) in group(self.rows, key)]
        head = ["selector", "against", *(f"{v}" for v in values)]
        lines = []
        for (name,) in group(self.rows, "selector"):
            for opponent in opponents:
                if name == opponent or name == "uniform":
                    continue
                cells = []
                for value in values:
                    where = {key: value, "equal": equal, "n": n}
                    own, base = (self.of(selector=s, **where) for s in (name, opponent))
                    cells.append(nats(difference(own, base, metric)) if own and base else "")
                lines.append([name, opponent, *cells])
        return head, lines

    def matches(
        self, key: str, equal: str, n: int, base: str = "uniform"
    ) -> tuple[list[str], list[list[str]]]:
        """Tokens that uniform rows need to do as well, as a multiple."""
        values = [v for (v,) in group(self.rows, key)]
        lines = []
        for (name,) in group(self.rows, "selector"):
            if name == base:
                continue
            cells = []
            for value in values:
                own = self.of(**{key: value, "selector": name, "equal": equal, "n": n})
                curve = self.of(**{key: value, "selector": base, "equal": equal})
                cells.append(times(tokens_to_match(own, curve)) if own else "")
            lines.append([name, *cells])
        return ["uniform tokens to match", *(str(v) for v in values)], lines

    def lengths(self) -> tuple[list[str], list[list[str]]]:
        """Mean tokens of a chosen row."""
        columns = [k for k in group(self.rows, "equal", "n") if self._has(*k)]
        lines = []
        for (name,) in group(self.rows, "selector"):
            cells = []
            for kind, n in columns:
                own = self.of(selector=name, equal=kind, n=n)
                cells.append(
                    f"{np.mean([r['tokens'] / r['rows'] for r in own]):.1f}" if own else ""
                )
            lines.append([name, *cells])
        return ["tokens a row", *(f"equal {k}, n = {n}" for k, n in columns)], lines

    def shares(self, key: str, n: int) -> tuple[list[str], list[list[str]]]:
        """Mean shares of the chosen rows by kind in percent, and tokens a row, at equal tokens."""
        values = [v for (v,) in group(self.rows, key)]
        lines = []
        for (name,) in group(self.rows, "selector"):
            cells = []
            for value in values:
                own = self.of(**{key: value, "selector": name, "equal": "tokens", "n": n})
                if not own:
                    cells.append("not run")
                    continue
                kinds = sorted({k for r in own for k in r["shares"]} - {"own"})
                of_kind = {k: np.mean([r["shares"].get(k, 0) for r in own]) for k in kinds}
                parts = [f"{k} {100 * share:.0f}" for k, share in of_kind.items()]
                length = np.mean([r["tokens"] / r["rows"] for r in own])
                cells.append(f"{', '.join(parts)}; {length:.0f} tokens a row")
            lines.append([name, *cells])
        return ["% of the rows", *(str(v) for v in values)], lines

    def parts(self, n: int) -> dict[str, tuple[Estimate, Estimate]]:
        """Advantage at equal examples = length part + content part, a selector each."""
        uniform = self.of(selector="uniform", equal="examples", n=n)
        curve = self.of(selector="uniform")
        found = {}
        for (name,) in group(self.rows, "selector"):
            own = self.of(selector=name, equal="examples", n=n)
            if name != "uniform" and own:
                found[name] = length_and_content(own, uniform, curve)
        return found

    def sentences(self, equal: str, n: int) -> tuple[list[str], list[list[str]]]:
        """Two-level bootstrap of the difference to uniform, nats a row."""
        base = self.of(selector="uniform", equal=equal, n=n)
        lines = []
        for (name,) in group(self.rows, "selector"):
            own = self.of(selector=name, equal=equal, n=n)
            if name != "uniform" and own:
                low, high = two_level(own, base)
                lines.append([name, f"{low:+.3f} to {high:+.3f}"])
        return [f"nats a row less uniform's, equal {equal}, n = {n}", "95% interval"], lines

    def variants(self, key: str, n: int) -> tuple[list[str], list[list[str]]]:
        """Every variant's validation loss less uniform's, one replicate."""
        values = [v for (v,) in group(self.rows, key)]
        lines = []
        for (name,) in group(self.rows, "selector"):
            cells = []
            for value in values:
                own = self.of(**{key: value, "selector": name, "n": n})
                base = self.of(**{key: value, "selector": "uniform", "n": n})
                change = own[0]["validation_nll"] - base[0]["validation_nll"] if own else None
                cells.append("not run" if change is None else f"{change:+.4f}")
            lines.append([name, *cells])
        return ["validation NLL less uniform's", *(str(v) for v in values)], lines

    def _has(self, equal: str, n: int) -> bool:
        return len(group(self.of(equal=equal, n=n), "selector")) > 1


def picked(found: Row) -> tuple[list[str], list[list[str]]]:
    """What the first picks have in common, and how long the chosen rows are."""

    def line(name: str, of: dict[str, float], lengths: str) -> list[str]:
        numbers = [f"{of['tokens']:.1f}", f"{of['rare']:.2f}", f"{of['repeats']:.2f}"]
        return [name, *numbers, f"{of['loss']:.2f}", f"{of['energy']:.2f}", lengths]

    lines = [line("the pool", found["pool"], "")]
    for name, of in found["selectors"].items():
        lengths = " / ".join(f"{q:.0f}" for q in of["length_quantiles"])
        lines.append(line(name, of["first"], lengths))
    head = ["first 20", "tokens a row", "in no other row", "repeated in the row", "loss (nats)"]
    return [*head, "squared norm", f"lengths of all {found['n']}: 10 / 50 / 90%"], lines


def judged(text: str) -> tuple[list[str], list[list[str]]]:
    """Win rates of each selector against uniform."""
    lines = []
    for entry in json.loads(text):
        t = entry["tally"]
        lines.append(
            [
                entry["judge"],
                entry["naming"],
                entry["selector"],
                f"equal {entry['equal']}, n = {entry['n']}",
                str(t["n_pairs"]),
                rate(t["win_rate_clustered"]),
                rate(t["half_ties"]),
                f"{t['ties']} + {t['unparsable']}",
                f"{t['position_1']:.2f}",
            ]
        )
    head = ["judge", "named", "selector", "at", "pairs", "wins of decided", "with half ties"]
    return [*head, "ties + unread", "position 1"], lines
