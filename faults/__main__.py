"""`python -m faults`: run the campaigns, print one table of tried / failed, exit 1 on any fault."""

import argparse
import importlib
import itertools
import sys
import time
from pathlib import Path

from faults.document import write
from faults.results import Result, append, latest, read, run_case, table
from fisher_jax.command.arguments import shard

SHARES = {  # of the time
    "properties": 0.2,
    "mutations": 0.25,
    "hostile": 0.1,
    "storage": 0.15,
    "load": 0.1,
    "kills": 0.2,
}


def main() -> int:
    """The command; its exit code."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("campaigns", nargs="*", choices=[*SHARES, []], help="default: all")
    p.add_argument("--seconds", type=float, default=3600, help="in all; a case is never cut off")
    p.add_argument("--full", action="store_true", help="every case, however long it takes")
    p.add_argument("--seed", type=int, default=0, help="of the cases and their order")
    p.add_argument(
        "--shard", type=shard, default=(1, 1), help="i/k: every k-th case from the i-th (from 1)"
    )
    p.add_argument("--results", type=Path, help="a file of results to go on from")
    p.add_argument("--document", action="store_true", help="docs/reliability.md shows the table")
    args = p.parse_args()
    names = args.campaigns or [*SHARES]
    results = read(args.results) if args.results else []
    for k, name in enumerate(names):
        left = sum(SHARES[other] for other in names[k:])
        until = time.monotonic() + (args.seconds - spent(results)) * SHARES[name] / left
        results += run(name, args, results, until)
    results = latest(results)
    print(table(results), end="")
    failed = [result for result in results if result.faults]
    for result in failed:
        for fault in result.faults:
            print(f"{result.campaign}, {result.name}: {fault}", file=sys.stderr)
    if args.document:
        write(results)
    return 1 if failed else 0


def spent(results: list[Result]) -> float:
    """Seconds of all of them."""
    return sum(result.seconds for result in results)


def run(name: str, args: argparse.Namespace, before: list[Result], until: float) -> list[Result]:
    """The campaign's cases that have no result yet, as far as the time goes."""
    known = {result.case for result in before if not result.faults}
    found = []
    part, parts = args.shard
    cases = importlib.import_module(f"faults.{name}").cases(args.seed)
    for case in itertools.islice(cases, part - 1, None, parts):
        if (name, case.name, args.seed) in known:
            continue
        if found and not args.full and time.monotonic() >= until:
            break  # at least one of each campaign
        result = run_case(name, case, args.seed, time.monotonic)
        found.append(result)
        if args.results:
            append(args.results, result)
        print(
            f"{name}: {case.name}: {result.tried} tried, {len(result.faults)} failed, "
            f"{result.seconds:.0f} s",
            file=sys.stderr,
        )
    return found


if __name__ == "__main__":
    sys.exit(main())
