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
    """Limits in seconds of a stage and of one of its parts; does nothing run without the model?"""

    seconds: float
    part: float
    needs_model: bool = False


STAGES = {  # in order of what has been measured least
    "imports": Stage(20, 20),
    "parity": Stage(120, 80),
    "synthetic": Stage(60, 60),
    "selection": Stage(120, 80),
    "embedding": Stage(130, 100, needs_model=True),
    "training": Stage(130, 110, needs_model=True),
    "language": Stage(300, 300, needs_model=True),
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
        command += ["--results", str(results), "--until", str(time.time() + limit)]
        command += ["--part-limit", str(STAGES[name].part), *["--small"] * args.small]
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
    """Run a stage to its end or limit; how it ended.

    A part that ends the stage's process is marked, and a new process goes on after it.
    """
    begin, path = time.monotonic(), results / f"{name}.json"
    log_path = results / "logs" / f"{name}.txt"
    while True:
        code = run_process(command, env, begin + limit, results, copies, name)
        content = json.loads(path.read_text()) if path.exists() else {"parts": {}}
        part = content.pop("running", None)
        if code == 0:
            ended = told(content)
            break
        ended = f"stopped at its limit of {limit:.0f} s"
        if code is not None:
            ended = f"broke off with exit code {code}"
        if code is not None and part is not None:
            why = "its limit" if code == -signal.SIGALRM else ended
            content.setdefault("overran", {})[part] = why
        write_json(path, content | {"ended": ended})
        print(log_path.read_text(errors="replace")[-1500:], flush=True)
        if code is None or part is None or time.monotonic() - begin > limit - LEAST:
            break
    for part, numbers in content["parts"].items():
        print(f"  {part}: {json.dumps(numbers)[:400]}", flush=True)
    copy_results(results, copies)
    return f"{ended}, {time.monotonic() - begin:.1f} s"


def run_process(
    command: list[str], env: dict[str, str], end: float, results: Path, copies: Path, name: str
) -> int | None:
    """Run a stage's process, results copied as they come; exit code, None if `end` came before."""
    path, seen, is_late = results / f"{name}.json", None, False
    with (results / "logs" / f"{name}.txt").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True
        )
        try:
            while process.poll() is None and not is_late:
                time.sleep(PAUSE)
                stamp = path.stat().st_mtime_ns if path.exists() else None
                if stamp != seen:
                    seen = stamp
                    copy_results(results, copies)
                is_late = time.monotonic() > end
            ended = process.poll()
        finally:
            with contextlib.suppress(ProcessLookupError):  # whatever it started goes as well
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return ended


def told(content: dict[str, Any]) -> str:
    """How a stage that came to its end says it ended."""
    kinds = {"failed": "failed", "left_out": "left out", "overran": "overran"}
    lines = [
        f"{k} {word}: {v}" for key, word in kinds.items() for k, v in content.get(key, {}).items()
    ]
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
