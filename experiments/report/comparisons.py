"""A rule against its opponents at every point of a grid: one family of tests."""

from collections.abc import Iterator, Sequence

from experiments.report.forest import Panel
from experiments.report.statistics import difference, group, matching, values_of
from experiments.report.tables import Cell, nats, table
from experiments.run.results import Row

LEAST_REPLICATES = 5  # fewer tell nothing, and have no interval
METRIC = "held_out_nll"


def compared(rows: Sequence[Row], rule: str, opponents: Sequence[str], key: str) -> str:
    """Nats a token, the rule less an opponent: a column a value of `key`."""
    columns = values_of(rows, key)
    points = sorted(group(rows, "equal", "n"))
    lines: list[list[Cell]] = [
        [
            opponent,
            f"equal {equal}, n = {n}",
            *(_cell(rows, rule, opponent, {key: v, "equal": equal, "n": n}) for v in columns),
        ]
        for opponent in opponents
        for equal, n in points
    ]
    return table([f"{rule} less", "at", *map(str, columns)], lines)


def panels(
    rows: Sequence[Row], rule: str, opponents: Sequence[str], key: str
) -> Iterator[tuple[str, Panel]]:
    """The same differences for a forest plot, those with an interval."""
    for value, kind in group(rows, key, "equal"):
        panel: Panel = {}
        for n in sorted(values_of(matching(rows, equal=kind), "n")):
            of_n = _pairs(rows, rule, opponents, {key: value, "equal": kind, "n": n})
            if of_n:
                panel[f"n = {n}"] = {o: difference(a, b, METRIC) for o, (a, b) in of_n.items()}
        if panel:
            yield f"{value}\nequal {kind}", panel


def _pairs(
    rows: Sequence[Row], rule: str, opponents: Sequence[str], point: Row
) -> dict[str, tuple[list[Row], list[Row]]]:
    """opponent: rows of the rule and of it, where enough replicates have both."""
    own = matching(rows, selector=rule, **point)
    pairs = {name: (own, matching(rows, selector=name, **point)) for name in opponents}
    return {name: two for name, two in pairs.items() if _common(*two) >= LEAST_REPLICATES}


def _common(rows: Sequence[Row], others: Sequence[Row]) -> int:
    return len({r["replicate"] for r in rows} & {r["replicate"] for r in others})


def _cell(rows: Sequence[Row], rule: str, opponent: str, point: Row) -> Cell:
    own, other = (matching(rows, selector=name, **point) for name in (rule, opponent))
    replicates = _common(own, other)
    if not replicates:
        return "not run"
    e = difference(own, other, METRIC)
    if replicates < LEAST_REPLICATES:
        return f"{e.mean:+.3f} ({replicates} replicate{'s' * (replicates > 1)}, no interval)"
    return nats(e)
