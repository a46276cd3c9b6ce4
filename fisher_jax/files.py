"""Files and folders that are there whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place if all goes well, and goes if not."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(descriptor)
    temporary = Path(name)
    try:
        temporary.chmod(0o666 & ~_umask())
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_files(folder: Path) -> Iterator[Path]:
    """A temporary folder whose files move into `folder` if all goes well, and go if not."""
    name = tempfile.mkdtemp(dir=nearest_folder(folder), prefix=f".{folder.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        yield temporary
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(temporary.iterdir()):
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def nearest_folder(path: Path) -> Path:
    """The path itself if it exists, else the nearest one above it that does."""
    return next(p for p in (path, *path.absolute().parents) if p.exists())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
