"""docs/reliability.md, whose figures are those of committed results."""

import datetime
import re
from pathlib import Path

from faults.results import Result, append, read, table
from fisher_jax.util.provenance import provenance

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs/reliability.md"
KEPT = Path(__file__).with_name("results.jsonl")
_TABLE = re.compile(r"(<!-- table -->\n).*?(<!-- end of table -->)", re.DOTALL)


def write(results: list[Result]) -> None:
    """Keep these results and show them."""
    KEPT.write_text("")
    for result in results:
        append(KEPT, result)
    facts = provenance()
    seeds = ", ".join(map(str, sorted({result.seed for result in results})))
    commit = next((r.commit[:10] for r in reversed(results) if r.commit), "unknown")
    when, where = datetime.date.today(), facts.get("cpu", "")
    told = f"Seed {seeds}, the last ones at commit {commit}, {when}, {where}.\n\n"
    DOCUMENT.write_text(shown(DOCUMENT.read_text(), told + table(results)))


def shown(text: str, figures: str) -> str:
    """The document with these figures."""
    return _TABLE.sub(lambda found: found[1] + figures + found[2], text)


def kept_table() -> str:
    """Of the committed results."""
    return table(read(KEPT))
