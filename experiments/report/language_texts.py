"""Tables of what language runs chose and wrote: first picks, lengths, judges' verdicts, samples."""

import math
from collections.abc import Sequence

from experiments.judging.calibration import LEAST_RIGHT, POSITION_1
from experiments.language.noise import DIFFERENCE
from experiments.report.statistics import estimate
from experiments.report.tables import plain, table
from experiments.run.results import Row

HALF = {"a": 1.0, "tie": 0.5, "b": 0.0}  # of a pair


def picked(picks: Row, names: Sequence[str]) -> str:
    """What the first picks of these selectors have in common."""
    chosen = picks["selectors"]
    first = {"the pool": picks["pool"]} | {n: chosen[n]["first"] for n in names if n in chosen}
    lines = []
    for name, of in first.items():
        shares = [f"{of['tokens']:.1f}", f"{of['rare']:.2f}", f"{of['repeats']:.2f}"]
        lines.append([name, *shares, f"{of['loss']:.2f}", f"{of['energy']:.2f}"])
    head = ["first 20", "tokens a row", "in no other row", "repeated in the row", "loss (nats)"]
    return table([*head, "squared norm"], lines)


def length_bias(picks: Row) -> str:
    """How long the rows are that each selector takes, longest on average first.

    Order and length: rank correlation over the chosen rows, above 0 where longer ones come first.
    """
    lines = []
    for name, of in sorted(picks["selectors"].items(), key=lambda kv: -kv[1]["all"]["tokens"]):
        tokens, information = of["all"]["tokens"], of["log_det"]
        lines.append(
            [
                name,
                f"{tokens:.1f} ({tokens / picks['pool']['tokens']:.2f})",
                " / ".join(f"{q:.0f}" for q in of["length_quantiles"]),
                f"{order:+.2f}" if (order := of["order_and_length"]) is not None else "equal",
                f"{information:.0f}",
                f"{information / tokens / of['n']:.3f}",
            ]
        )
    head = [f"n = {picks['n']}", "tokens a row (pool's = 1)", "10 / 50 / 90%"]
    return table([*head, "order and length", "information, nats", "nats a token"], lines)


def noise(spreads: Sequence[Row]) -> str:
    """How far apart trainings of the same rows are, and the replicates that this asks for."""
    lines = [
        [
            " ".join(f"{rate:g}" for rate in of["rates"]),
            of["selector"],
            f"{of['training']:.4f} ({of['cells']} cells)",
            "" if of["selector"] == "uniform" else _or_none(of["replicate"]),
            str(of["replicates"] or ""),
            f"{of['unsteady']}, {of['diverged']}",
        ]
        for of in spreads
    ]
    head = ["rate", "rows of", "SD of a training, nats a token", "SD of the difference to uniform"]
    return table([*head, f"replicates for {DIFFERENCE:g} nats", "unsteady, diverged"], lines)


def _or_none(sd: float) -> str:
    return "one replicate" if math.isnan(sd) else f"{sd:.4f}"


def wins_of_models(entry: Row, pairs_a_model: int) -> list[float]:
    """A model's share of pairs won, with half ties; pairs are in the models' order."""
    winners = entry["winners"]
    of_model = [
        [HALF[w] for w in winners[begin : begin + pairs_a_model] if w in HALF]
        for begin in range(0, len(winners), pairs_a_model)
    ]
    return [sum(own) / len(own) for own in of_model if own]


def judged(verdicts: Sequence[Row], pairs_a_model: int) -> str:
    """Win rates of each selector against its opponent."""
    lines = []
    for entry in verdicts:
        t = entry["tally"]
        lines.append(
            [
                entry["judge"],
                entry["naming"],
                f"{entry['selector']} against {entry.get('against', 'uniform')}",
                f"equal {entry['equal']}, n = {entry['n']}",
                str(t["n_pairs"]),
                rate(t["win_rate_clustered"]),
                rate(t["half_ties"]),
                plain(estimate(wins_of_models(entry, pairs_a_model))),
                f"{t['ties']} + {t['unparsable']}",
                f"{t['position_1']:.2f}",
                rate(t["probability_a"], 3) if t["probability_a"] else "",
            ]
        )
    head = ["judge", "named", "selector", "at", "pairs", "wins of decided", "with half ties"]
    head += ["the same over models", "ties + unread", "position 1", "mean probability"]
    return table(head, lines)


def calibration(rows: Sequence[Row]) -> str:
    """Every judge on pairs of known order, and whether it passed."""
    (low, high), least = POSITION_1, LEAST_RIGHT
    lines = [
        [
            row["judge"],
            row["kind"],
            str(row["n_pairs"]),
            rate(row["right"]),
            f"{row['position_1']:.2f}",
            "yes" if row["passes"] else "no",
        ]
        for row in rows
    ]
    head = ["judge", "pairs of known order", "pairs", f"right (at least {least})"]
    return table([*head, f"position 1 ({low} to {high})", "passes"], lines)


def realness(rows: Sequence[Row]) -> str:
    """MAUVE and the discriminator's area, a line a set of texts."""
    lines = [
        [
            row["selector"],
            f"equal {row['equal']}, n = {row['n']}",
            f"{row['mauve']:.3f}",
            rate(row["told_apart"]) if row["told_apart"] else "",
        ]
        for row in rows
    ]
    head = ["texts", "at", "MAUVE (1: like real ones)", "told from real ones (0.5: not)"]
    return table(head, lines)


def rate(value: Sequence[float | None], digits: int = 2) -> str:
    """A share with its interval; none where nothing was decided."""
    if None in value:
        return "none"
    mean, low, high = (f"{x:.{digits}f}" for x in value)
    return f"{mean} ({low} to {high})"


def samples(rows: Sequence[Row], selectors: Sequence[str], count: int) -> str:
    """The first texts of replicate 0 at equal tokens."""
    lines = []
    for name in selectors:
        of_name = (r for r in rows if r["selector"] == name and r["equal"] == "tokens")
        texts = next((r["texts"] for r in of_name if r["replicate"] == 0 and "texts" in r), [])
        for k, text in enumerate(texts[:count]):
            words = " ".join(text.split()).replace("|", "/").replace("<", "&lt;")
            lines.append([name, str(k + 1), words])
    return table(["selector", "prompt", "continuation"], lines)
