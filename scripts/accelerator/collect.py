"""Results of one card or several calls into benchmarks/accelerator/CARD.json, and their table.

`python -m scripts.accelerator.collect RESULTS.json...`: files that `run` has copied, in the order
of their calls: of a part in several the last one counts. Each part keeps its commit.
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fisher_jax.util.files import replacing
from scripts.accelerator.layout import ROOT

OUT = ROOT / "benchmarks" / "accelerator"
WITHOUT_NUMBERS = ("failed", "left_out", "overran")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("results", type=Path, nargs="+")
    p.add_argument("--out", type=Path, default=OUT)
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    by_card: dict[str, dict[str, Any]] = {}
    for path in args.results:
        for stage, record in json.loads(path.read_text()).items():
            name = file_name(record)
            kept = by_card.setdefault(name, known(args.out / f"{name}.json"))
            kept[stage] = merged(kept.get(stage, {}), record)
    for name, stages in by_card.items():
        path = args.out / f"{name}.json"
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(stages, indent=1) + "\n")
        print(f"{path}\n{table(stages)}")


def known(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def merged(before: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """A stage's record, its parts beside those that only an earlier one has."""
    commit = f"{record.get('commit')}"[:10] + " dirty" * bool(record.get("dirty"))
    parts = {name: {"commit": commit} | numbers for name, numbers in record["parts"].items()}
    machine = {k: v for k, v in record.get("machine", {}).items() if k != "git_commit"}
    kept = {"machine": machine, "ended": record["ended"]}
    kept |= {kind: record[kind] for kind in WITHOUT_NUMBERS if record.get(kind)}
    return kept | {"parts": before.get("parts", {}) | parts}


def file_name(record: dict[str, Any]) -> str:
    """The card's name as a file's; shrunk stages have one of their own."""
    card = record.get("machine", {}).get("card", "unknown") + " small" * bool(record.get("small"))
    return re.sub(r"[^a-z0-9]+", "_", card.lower()).strip("_")


def table(stages: dict[str, Any]) -> str:
    """A line a number."""
    lines = []
    for stage, record in stages.items():
        machine = record.get("machine", {})
        where = [machine.get(k, "?") for k in ("card", "driver", "jax")]
        lines.append(f"\n{stage} ({', '.join(where)}): {record['ended']}")
        for part, numbers in record["parts"].items():
            lines += [f"  {part:24} {key:36} {value}" for key, value in flat(numbers)]
        for kind in WITHOUT_NUMBERS:
            lines += [f"  {part:24} {kind}: {why}" for part, why in record.get(kind, {}).items()]
    return "\n".join(lines)


def flat(numbers: dict[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Numbers inside others by their path."""
    for key, value in numbers.items():
        if isinstance(value, dict):
            yield from flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
