"""How much of a difference is chance: the spread of trainings, and the replicates it asks for.

`python -m experiments.language.noise outputs/language/noise` reads a run whose cells have two or
more trainings, prints a table and writes noise.json beside its results. Read it before any
comparison.
"""

import argparse
import json
from pathlib import Path

from experiments.report.statistics import noise, replicates_for
from experiments.run.harness import reporting
from experiments.run.kept import having
from experiments.run.packed import read_folder
from experiments.run.results import Row, rounded
from fisher_jax.util.errors import UserError
from fisher_jax.util.files import replacing

NOISE = "noise.json"
DIFFERENCE = 0.02  # nats a token that a study must tell apart
METRIC = "held_out_nll"
NEEDED = ("replicate", "selector", "equal", "n", METRIC, "learning_rate", "unsteady", "diverged")


def main() -> None:
    """The command."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("folder", type=Path, help="of a finished or partial language run")
    p.add_argument(
        "--difference", type=float, default=DIFFERENCE, help="nats a token, default 0.02"
    )
    args = p.parse_args()
    with reporting("experiments.language.noise"):
        rows = having(read_folder(args.folder), args.folder, *NEEDED)
        if not rows:
            raise UserError(f"{args.folder}: no rows: run the experiment first")
        lines = spreads(rows, args.difference)
        with replacing(args.folder / NOISE) as temporary:
            temporary.write_text(json.dumps(lines, indent=1) + "\n")
    for line in lines:
        where = " ".join(f"{k}={v}" for k, v in line["setting"].items())
        print(
            f"{where} {line['selector']}, equal {line['equal']}, n = {line['n']}, rates "
            f"{line['rates']}: SD of a training {line['training']:.4f} ({line['cells']} cells), "
            f"unsteady {line['unsteady']}, diverged {line['diverged']}; "
            f"SD of the difference to uniform {line['replicate']:.4f}: {args.difference:g} nats "
            f"take {line['replicates'] or 'unknown'} replicates"
        )


def spreads(rows: list[Row], difference: float = DIFFERENCE) -> list[Row]:
    """`Noise` of each setting, rule and budget, with what its trainings' rates were.

    Raises:
        ValueError: no cell has two trainings.
    """
    cells: dict[str, list[Row]] = {}
    for row in rows:
        at = {key: row[key] for key in ("setting", "selector", "equal", "n")}
        cells.setdefault(json.dumps(at, sort_keys=True), []).append(row)
    lines = []
    for name, own in cells.items():
        at = json.loads(name)
        base = cells.get(json.dumps(at | {"selector": "uniform"}, sort_keys=True), [])
        of = noise(own, base, METRIC)
        chance = None if at["selector"] == "uniform" else replicates_for(difference, of.replicate)
        lines.append(
            at
            | rounded(of._asdict())
            | {
                "rates": sorted({row["learning_rate"] for row in own}),
                "unsteady": sum(row["unsteady"] for row in own),
                "diverged": sum(row["diverged"] for row in own),
                "replicates": chance,
            }
        )
    return lines


if __name__ == "__main__":
    main()
