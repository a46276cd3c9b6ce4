"""One stage in a process of its own: `python -m scripts.accelerator.stage NAME --results DIR`."""

import argparse
import functools
import importlib
import subprocess
import time
from pathlib import Path

from scripts.accelerator.layout import facts_of_pack, pack_folder
from scripts.accelerator.record import Context, Record


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("name")
    p.add_argument("--results", type=Path, required=True)
    p.add_argument("--until", type=float, required=True, help="seconds since 1970")
    p.add_argument("--part-limit", type=float, required=True, help="seconds")
    p.add_argument("--small", action="store_true")
    args = p.parse_args()
    record = Record(args.results, args.name, same_of(args.small))
    record.save()
    module = importlib.import_module(f"scripts.accelerator.{args.name}")
    record.save(machine=machine())
    job = Context(args.small, args.results, lambda: args.until - time.time(), record.keep)
    record.run(module.parts(job), args.part_limit)


def same_of(small: bool) -> dict:
    """What results must share to stand in one record."""
    pack = facts_of_pack(pack_folder())
    return {"commit": pack.get("commit"), "dirty": pack.get("dirty"), "small": small}


@functools.cache
def machine() -> dict:
    """Card, driver, versions."""
    from fisher_jax.util.provenance import provenance

    return provenance() | card()


def card() -> dict[str, str]:
    """As nvidia-smi names it, where there is one."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {"card": "cpu"}
    name, driver, memory = (word.strip() for word in said.splitlines()[0].split(","))
    return {"card": name, "driver": driver, "card_memory": memory}


if __name__ == "__main__":
    main()
