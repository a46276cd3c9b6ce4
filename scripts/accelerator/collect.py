"""Results of one card or several calls into benchmarks/accelerator/CARD.json, and their table.

`python -m scripts.accelerator.collect RESULTS.json...`: files that `run` has copied; of a part in
several the last one counts.
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fisher_jax.files import replacing
from scripts.accelerator.layout import ROOT

OUT = ROOT / "benchmarks" / "accelerator"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("results", type=Path, nargs="+")
    p.add_argument("--out", type=Path, default=OUT)
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    by_card: dict[str, dict[str, Any]] = {}
    for path in args.results:
        for stage, record in json.loads(path.read_text()).items():
            name = file_name(record.get("machine", {}).get("card", "unknown"))
            kept = by_card.setdefault(name, known(args.out / f"{name}.json"))
            kept[stage] = merged(kept.get(stage), record)
    for name, stages in by_card.items():
        path = args.out / f"{name}.json"
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(stages, indent=1) + "\n")
        print(f"{path}\n{table(stages)}")


def known(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def merged(before: dict[str, Any] | None, record: dict[str, Any]) -> dict[str, Any]:
    """A stage's record with the parts that an earlier one of the same commit and size has."""
    same = ("commit", "dirty", "small")
    if before is None or any(before.get(key) != record.get(key) for key in same):
        return record
    return record | {"parts": before["parts"] | record["parts"]}


def file_name(card: str) -> str:
    """The card's name as a file's."""
    return re.sub(r"[^a-z0-9]+", "_", card.lower()).strip("_")


def table(stages: dict[str, Any]) -> str:
    """A line a number."""
    lines = []
    for stage, record in stages.items():
        machine = record.get("machine", {})
        where = [machine.get(k, "?") for k in ("card", "driver", "jax")]
        commit = f"{record.get('commit')}"[:10] + " dirty" * bool(record.get("dirty"))
        lines.append(f"\n{stage} ({', '.join(where)}, commit {commit}): {record['ended']}")
        for part, numbers in record["parts"].items():
            lines += [f"  {part:24} {key:36} {value}" for key, value in flat(numbers)]
        for kind in ("failed", "left_out"):
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
