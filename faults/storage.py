"""Storage: full and read-only disks, damaged checkpoints, two writers, a pool that grows."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from faults import inputs
from faults.case import Case, Trial, shuffled
from faults.commands import select
from faults.kills import (
    Target,
    cache_state,
    command_state,
    endpoint,
    fresh,
    goes_on,
    results_state,
    targets,
    undisturbed,
)
from faults.mutator import damaged
from faults.processes import ended, started
from faults.training import digest, train
from tests.helpers.cli import K, N, texts, write_embeddings, write_rows

ROUNDS = 40
FREE = [0, 4, 16, 64, 128, 256, 512, 1024, 1060, 1100, 1150, 1200, 1500, 2048]  # kB
GROWING = [  # a pool's name, how it begins, and a row
    ("pool.jsonl", "", '{{"text": "row {}"}}\n'),
    ("pool.csv", "text\n", "row {}\n"),
    ("pool.txt", "", "row {}\n"),
]


def cases(seed: int) -> Iterator[Case]:
    """Each kind in turn."""
    with tempfile.TemporaryDirectory(prefix="faults") as name, endpoint() as server:
        work = Path(name)
        kinds: dict[str, Callable[[Trial, Path, int], None]] = {
            "damaged checkpoints": lambda t, at, k: checkpoints(t, at, work, seed + k),
            "a pool that grows while it is read": lambda t, at, k: growing(t, at, k),
            "two writers of one output": lambda t, at, k: two_writers(t, at, work / "cache"),
            "a read-only folder": lambda t, at, k: read_only(t, at),
            "damaged caches": lambda t, at, k: caches(t, at, work, shuffled(seed + k, "caches")),
            "two processes with one cache": lambda t, at, k: one_cache(t, at, work),
            "two experiments in one folder": lambda t, at, k: two_experiments(t, at, work),
            "two trainings in one folder": lambda t, at, k: two_trainings(t, at, work / "cache"),
        } | {
            f"a full disk: {target.kind}": (
                lambda t, at, k, target=target: full_disk(t, target, at, work, seed + k)
            )
            for target in targets(work, server)
        }
        for k in range(ROUNDS):
            for kind, run in kinds.items():
                at = fresh(work / kind.replace(" ", "_"))
                yield Case(kind, f"{kind} {k}", lambda t, run=run, at=at, k=k: run(t, at, k))


def checkpoints(trial: Trial, folder: Path, work: Path, seed: int) -> None:
    """Ten ways of damage to the newest step: the same weights, and it is told; or refused."""
    rng, sound, other = shuffled(seed, "checkpoints"), work / "sound", work / "other"
    if not sound.exists():
        train(sound)
        train(other, seed=1)
    expected = digest(train(sound))
    try:
        train(other)
        trial.check(False, "checkpoints of another run were taken")
    except ValueError as error:
        trial.check(str(other) in str(error), f"another run's: {error}")
    for k in range(10):
        place = folder / str(k)
        shutil.copytree(sound, place)
        newest = max((place / "steps").iterdir(), key=lambda path: int(path.name))
        files = sorted(p for p in newest.rglob("*") if p.is_file() and p.stat().st_size)
        one = rng.choice([*files, place / "run.json"])
        ways = ["bytes", "gone", "folder", "another run's"]
        how = rng.choice(ways) if one.name != "run.json" else "bytes"
        if how == "bytes":
            content = one.read_bytes()
            one.write_bytes(damaged(content, rng))
            if one.read_bytes() == content:
                continue
        elif how == "gone":
            one.unlink()
        elif how == "folder":
            shutil.rmtree(one.parent)
        else:
            shutil.rmtree(newest)
            shutil.copytree(other / "steps" / newest.name, newest)
        what = f"{how} of {one.relative_to(place)}"
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                found = digest(train(place))
            except ValueError as error:
                trial.check(str(place) in str(error), f"{what}: {error}")
                continue
        trial.check(found == expected, f"{what}: other weights")
        is_told = any("damaged or lost" in str(w.message) for w in told)
        trial.check(is_told or one.name == "run.json", f"{what}: not told")


def full_disk(trial: Trial, target: Target, folder: Path, work: Path, k: int) -> None:
    """A disk with some bytes left: told in a line, or enough; with room the program goes on."""
    whole = undisturbed(target, folder, work / "cache")
    free = shuffled(k, target.kind).choice(FREE)
    fresh(folder)
    with mounted(folder, "size=64m") as is_mounted:
        if not is_mounted:  # nothing is tried
            return
        target.prepare(folder)
        used = shutil.disk_usage(folder).used // 1024
        resize(folder, f"{max(4, used + free)}k")  # 0 would be no limit
        done = ended(target.argv(folder), work / "cache", folder)
        what = f"{free} kB free"
        is_told = done.told_in_a_line and str(folder) in done.messages
        trial.check(done.code == 0 or is_told, f"{what}: {done.code} {done.messages[-700:]}")
        left = target.state(folder)
        trial.check(target.kept(left, whole), f"{what}: lost or torn: {sorted(left)}")
        resize(folder, "64m")
        goes_on(trial, target, folder, work / "cache", whole, what)


def resize(folder: Path, size: str) -> None:
    """Another size for what is `mounted` there."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def read_only(trial: Trial, folder: Path) -> None:
    """A folder that can't be written to is told in a line."""
    inputs.ready(folder)
    disk = folder / "disk"
    disk.mkdir()
    with mounted(disk, "ro,size=1m") as is_mounted:
        if not is_mounted:
            disk.chmod(0o555)
            if os.access(disk, os.W_OK):  # root may write anywhere: nothing is tried
                return
        argv = ["--embeddings", folder / "emb.safetensors", "-o", disk / inputs.OUT]
        done = select(*argv, "--n-samples", K)
        trial.check(
            done.is_a_line and str(disk) in done.messages, f"{done.code} {done.messages[-500:]}"
        )


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[bool]:
    """A small file system in memory; False where this user may not mount one."""
    argv = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        is_mounted = subprocess.run(argv, capture_output=True).returncode == 0
    except OSError as error:
        is_mounted = error.errno not in (errno.ENOENT, errno.EACCES, errno.EPERM)
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", str(folder)], check=True)


def growing(trial: Trial, folder: Path, k: int) -> None:
    """Rows are appended meanwhile: told, or the manifest has the hash of those that were read."""
    write_embeddings(folder / "emb.safetensors")
    name, head, row = GROWING[k % len(GROWING)]
    pool = folder / name
    pool.write_text(head + "".join(row.format(i) for i in range(N)))
    read = pool.read_bytes()
    ends = threading.Event()

    def append() -> None:
        ends.wait(0.002 * k)
        while not ends.wait(0.01):
            with pool.open("a") as file:
                file.write(row.format("later"))

    writer = threading.Thread(target=append)
    writer.start()
    try:
        argv = [pool, "--embeddings", folder / "emb.safetensors", "-o", folder / inputs.OUT]
        done = select(*argv, "--n-samples", K)
    finally:
        ends.set()
        writer.join()
    if done.code != 0:
        trial.check(done.is_a_line, f"{done.code} {done.messages[-500:]}")
        return
    manifest = json.loads(command_state(folder)["manifest.json"])
    hashes = [value for key, value in manifest["result"].items() if "sha256" in key]
    expected = hashlib.sha256(read).hexdigest()
    trial.check(expected in hashes, f"the manifest has {hashes}, what was read {expected}")


def two_writers(trial: Trial, folder: Path, cache: Path) -> None:
    """Two runs to one new output at once: one is told, or both agree; nothing is torn."""
    inputs.ready(folder)
    argv = [*inputs.COMMAND, "--embeddings", folder / "emb.safetensors", "-o", folder / inputs.OUT]
    argvs = [[*argv, "--n-samples", n] for n in (2, 3)]
    codes, messages = side_by_side(argvs, cache)
    trial.check(sorted(codes) == [0, 2], f"exit codes {codes}: {messages[0][-300:]}")
    trial.check(not any("Traceback" in m for m in messages), "".join(messages)[-500:])
    winner = (2, 3)[codes.index(0)] if 0 in codes else 0
    rows = (folder / inputs.OUT).read_text().splitlines()
    trial.check(len(rows) == winner, f"{len(rows)} rows, the run that ended well chose {winner}")
    chosen = json.loads(command_state(folder)["manifest.json"])["result"]["selected_rows"]
    trial.check(chosen == winner, f"the report is of {chosen} rows, the output of {winner}")


def two_trainings(trial: Trial, folder: Path, cache: Path) -> None:
    """Two fine-tunings with one folder of checkpoints: one is told, or comes after the other."""
    codes, messages = side_by_side([inputs.training(folder)] * 2, cache)
    trial.check(sorted(codes) in ([0, 0], [0, 2]), f"exit codes {codes}: {messages}")
    trial.check(not any("Traceback" in m for m in messages), "".join(messages)[-500:])
    trial.check((folder / "weights.sha256").exists(), "nothing was written")


def two_experiments(trial: Trial, folder: Path, work: Path) -> None:
    """Two runs of an experiment into one folder: one is told, or comes after the other."""
    codes, messages = side_by_side([inputs.experiment(folder)] * 2, work / "cache")
    trial.check(sorted(codes) in ([0, 0], [0, 2]), f"exit codes {codes}: {messages}")
    trial.check(not any("Traceback" in m for m in messages), "".join(messages)[-500:])
    alone = work / "experiment"
    if not alone.exists():
        side_by_side([inputs.experiment(alone)], work / "cache")
    trial.check(results_state(folder) == results_state(alone), "other rows than those of one run")


def caches(trial: Trial, folder: Path, work: Path, rng: Any) -> None:
    """A shard is cut, flipped, gone or another pool's: embedded again, and the same is chosen."""
    inputs.texts(fresh(folder / "other"))
    other = folder / "other" / "pool.jsonl"
    write_rows(other, [{"text": " ".join(reversed(text.split()))} for text in texts()])
    done = select("embed", *inputs.of_pool(folder / "other", work / "model"))
    trial.check(done.code == 0, done.messages[-500:])
    (of_other,) = (folder / "other" / "states").rglob("*.safetensors")
    inputs.texts(folder)
    argv = [*inputs.of_pool(folder, work / "model"), "-o", folder / inputs.OUT, "--n-samples", K]
    first = select(*argv)
    trial.check(first.code == 0, first.messages[-500:])
    expected, shards = (folder / inputs.OUT).read_bytes(), cache_state(folder)
    (shard,) = (folder / "states").rglob("*.safetensors")
    for how in ("cut", "bytes", "another pool's", "gone"):
        content = shard.read_bytes()
        if how == "gone":
            shard.unlink()
        elif how == "another pool's":
            shutil.copy(of_other, shard)
        else:
            cut = content[: rng.randrange(len(content))]
            shard.write_bytes(cut if how == "cut" else damaged(content, rng))
            if shard.read_bytes() == content:
                continue
        again = select(*argv, "--overwrite")
        trial.check(again.code == 0, f"{how}: {again.messages[-500:]}")
        trial.check((folder / inputs.OUT).read_bytes() == expected, f"{how}: another choice")
        trial.check(cache_state(folder) == shards, f"{how}: the shard was not made again")


def one_cache(trial: Trial, folder: Path, work: Path) -> None:
    """Two processes embed one pool into one cache: both end well, and it is whole."""
    inputs.texts(folder)
    codes, messages = side_by_side([inputs.embedding(folder, work / "model")] * 2, work / "cache")
    trial.check(codes == [0, 0], f"exit codes {codes}: {messages}")
    argv = [*inputs.of_pool(folder, work / "model"), "-o", folder / inputs.OUT, "--n-samples", K]
    done = select("select", *argv, "--batch-tokens", 8)
    trial.check(done.code == 0, done.messages[-500:])


def side_by_side(argvs: list[list[object]], cache: Path) -> tuple[list[int], list[str]]:
    """Exit codes and messages of programs at once."""
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(started(argv, cache)) for argv in argvs]
        messages = [process.communicate(timeout=600)[1].decode() for process in processes]
        return [process.returncode for process in processes], messages
