"""A large file in parts, each in a folder of its own, and whole again; needs nothing but Python."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

BLOCK = 1 << 22  # bytes at a time


class MissingPartsError(ValueError):
    """Not all parts are there, or not as they were."""


def split(source: Path, folder: Path, size: int) -> list[dict[str, Any]]:
    """Write `folder/model-1/part`, `folder/model-2/part`...; name, bytes and sha256 of each."""
    parts = []
    with source.open("rb") as file:
        while block := file.read(size):
            name = f"model-{len(parts) + 1}"
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / "part").write_bytes(block)
            digest = hashlib.sha256(block).hexdigest()
            parts.append({"name": name, "bytes": len(block), "sha256": digest})
    return parts


def are_there(folder: Path, parts: list[dict[str, Any]]) -> bool:
    """Whether all parts lie in the folder as they were written."""
    paths = [folder / part["name"] / "part" for part in parts]
    return bool(parts) and all(
        path.is_file() and sha256(path) == part["sha256"]
        for path, part in zip(paths, parts, strict=True)
    )


def join(folder: Path, parts: list[dict[str, Any]], whole: str, target: Path) -> None:
    """Make the file of sha256 `whole` again, unless it is there.

    Raises:
        MissingPartsError: parts that are missing or damaged.
    """
    if target.is_file() and sha256(target) == whole:
        return
    paths = [folder / part["name"] / "part" for part in parts]
    missing = [path.parent.name for path in paths if not path.is_file()]
    if missing or not parts:
        raise MissingPartsError(f"parts of the model are missing: {', '.join(missing) or 'all'}")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    with temporary.open("wb") as joined:
        for path in paths:
            with path.open("rb") as part:
                shutil.copyfileobj(part, joined, BLOCK)
    if sha256(temporary) != whole:
        temporary.unlink()
        raise MissingPartsError("the model's parts are damaged: their sha256 is not the recorded")
    temporary.replace(target)


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
