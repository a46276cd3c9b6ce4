"""Tables in Markdown, and how estimates are written in them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.report.statistics import Estimate, rejected


class Compared(NamedTuple):
    """A cell whose hypothesis, no difference, is one of its table's family.

    Attributes:
        text: what the cell says.
        p: of the hypothesis; NaN where it can't be tested.
    """

    text: str
    p: float

    def __str__(self) -> str:
        return self.text


Cell = str | Compared


def table(head: Sequence[str], lines: Sequence[Sequence[Cell]]) -> str:
    """A table in Markdown; bold differs from zero after Holm's correction within the table."""
    cells = [cell for line in lines for cell in line]
    bold = rejected([cell.p if isinstance(cell, Compared) else float("nan") for cell in cells])
    texts = iter(f"**{c}**" if apart else str(c) for c, apart in zip(cells, bold, strict=True))
    rows = [head, ["---"] * len(head), *([next(texts) for _ in line] for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def in_percent(e: Estimate, digits: int = 0) -> Compared:
    """A difference in percent with its interval."""
    return Compared(f"{e.mean:+.{digits}f} ± {e.half:.{digits}f} %", e.p)


def nats(e: Estimate, digits: int = 3) -> Compared:
    """A difference in nats with its interval."""
    if np.isnan(e.half):
        return Compared(f"{e.mean:+.{digits}f} (one replicate)", e.p)
    return Compared(f"{e.mean:+.{digits}f} ± {e.half:.{digits}f}", e.p)


def plain(e: Estimate, digits: int = 2) -> str:
    """A mean with its interval."""
    return f"{e.mean:.{digits}f} ± {e.half:.{digits}f}"


def in_seconds(e: Estimate) -> str:
    """A mean run time with its interval."""
    return f"{e.mean:.2g} ± {e.half:.2g} s"
