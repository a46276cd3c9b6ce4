"""Run the stages one after the other, each in a process and within a limit of its own.

`python -m scripts.accelerator.run --results DIR --copy-to DIR --limit SECONDS`. Needs nothing but
Python itself; a stage's process finds the rest in the pack. A stage that is done is not run again.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from scripts.accelerator.layout import (
    MODEL_FILE,
    PACK,
    ROOT,
    environment,
    facts_of_pack,
    pack_folder,
    write_json,
)
from scripts.accelerator.parts import MissingPartsError, join

LOG_BYTES = 200_000  # of a stage's log that travel
LEAST = 8.0  # seconds that a stage is started with
PAUSE = 0.5  # seconds between looks at a stage


class Stage(NamedTuple):
    """A stage's default limit in seconds, and whether nothing of it runs without the model."""

    seconds: float
    needs_model: bool = False


STAGES = {  # in order of priority
    "imports": Stage(30),
    "parity": Stage(90),
    "selection": Stage(200),
    "embedding": Stage(90, needs_model=True),
    "synthetic": Stage(60),
    "training": Stage(90, needs_model=True),
    "language": Stage(120, needs_model=True),
}


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--results", type=Path, required=True, help="folder that later calls go on from")
    p.add_argument("--copy-to", type=Path, required=True, help="folder of few files that travels")
    p.add_argument("--limit", type=float, required=True, help="seconds of this call")
    p.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    p.add_argument("--small", action="store_true", help="shrunk: two CPU cores, a few minutes")
    args = p.parse_args()
    end = time.monotonic() + args.limit
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(143))  # so that a stage is ended as well
    results: Path = args.results.absolute()
    (results / "logs").mkdir(parents=True, exist_ok=True)
    args.copy_to.mkdir(parents=True, exist_ok=True)
    folder = pack_folder()
    env = environment(folder, results) | {PACK: str(folder)}
    reason = joined_model(folder)
    for name in args.stages:
        left = end - time.monotonic()
        print(f"[{left:.0f} s left] {name}", flush=True)
        if STAGES[name].needs_model and reason:
            print(f"  left out: {reason}", flush=True)
            continue
        if left < LEAST:
            print("  not begun: too little time is left", flush=True)
            continue
        limit = min(STAGES[name].seconds, left - 2)
        command = [sys.executable, "-m", "scripts.accelerator.stage", name]
        command += ["--results", str(results), "--limit", str(limit), *["--small"] * args.small]
        ended = run_stage(command, env, limit, results, args.copy_to, name)
        print(f"  {ended}", flush=True)
    print(f"[{end - time.monotonic():.0f} s left] {args.copy_to / 'results.json'}")
    return 0


def joined_model(folder: Path) -> str | None:
    """Make the model whole; the reason why it can't be, or None."""
    facts = facts_of_pack(folder).get("model")
    if facts is None:
        return f"there is no {folder / 'pack.json'}"
    try:
        join(folder, facts["parts"], facts["sha256"], folder / "model" / MODEL_FILE)
    except MissingPartsError as error:
        return str(error)
    for metadata in (folder / "model-1").glob("*.dist-info"):
        shutil.copytree(metadata, folder / "model" / metadata.name, dirs_exist_ok=True)
    return None


def run_stage(
    command: list[str], env: dict[str, str], limit: float, results: Path, copies: Path, name: str
) -> str:
    """Run a stage to its end or limit, results copied as they come; how it ended."""
    begin, seen = time.monotonic(), None
    path, log_path = results / f"{name}.json", results / "logs" / f"{name}.txt"
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True
        )
        try:
            while process.poll() is None and time.monotonic() - begin < limit:
                time.sleep(PAUSE)
                stamp = path.stat().st_mtime_ns if path.exists() else None
                if stamp != seen:
                    seen = stamp
                    copy_results(results, copies)
        finally:
            with contextlib.suppress(ProcessLookupError):  # whatever it started goes as well
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    took = time.monotonic() - begin
    if process.returncode == 0:
        ended = told(path)
    elif took >= limit:
        ended = f"stopped at its limit of {limit:.0f} s"
    else:
        ended = f"broke off with exit code {process.returncode}"
    content = json.loads(path.read_text()) if path.exists() else {"parts": {}}
    if process.returncode != 0:
        write_json(path, content | {"ended": ended})
        print(log_path.read_text(errors="replace")[-1500:], flush=True)
    for part, numbers in content["parts"].items():
        print(f"  {part}: {json.dumps(numbers)[:400]}", flush=True)
    copy_results(results, copies)
    return f"{ended}, {took:.1f} s"


def told(path: Path) -> str:
    """How a stage that came to its end says it ended."""
    content = json.loads(path.read_text())
    lines = [f"{k} failed: {v}" for k, v in content["failed"].items()]
    lines += [f"{k} left out: {v}" for k, v in content["left_out"].items()]
    return "; ".join([content["ended"], *lines])


def copy_results(results: Path, copies: Path) -> None:
    """All records in one file, all logs in another, the language grid's rows."""
    paths = {name: results / f"{name}.json" for name in STAGES}
    records: dict[str, Any] = {k: json.loads(v.read_text()) for k, v in paths.items() if v.exists()}
    write_json(copies / "results.json", records)
    logs = [results / "logs" / f"{name}.txt" for name in STAGES]
    texts = [f"== {p.stem}\n".encode() + p.read_bytes()[-LOG_BYTES:] for p in logs if p.exists()]
    (copies / "log.txt").write_bytes(b"\n".join(texts))
    rows = results / "language" / "results.jsonl"
    if rows.exists():
        shutil.copy(rows, copies / "language.jsonl")


if __name__ == "__main__":
    sys.exit(main())
