"""Files and folders that are there whole or not at all."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows: no quotas


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place if all goes well, and goes if not."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(descriptor)
    temporary = Path(name)
    try:
        temporary.chmod(0o666 & ~_umask())
        with room_told(path, temporary):
            yield temporary
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_files(folder: Path) -> Iterator[Path]:
    """A temporary folder whose files move into `folder` if all goes well, and go if not.

    What else is in `folder` stays. Where a file can't be moved, those before it are taken back and
    earlier ones of their names restored.

    Raises:
        IsADirectoryError: a folder is where a file should go.
    """
    name = tempfile.mkdtemp(dir=nearest_folder(folder), prefix=f".{folder.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with room_told(folder, temporary):
            yield temporary
            _move_files(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move_files(source: Path, folder: Path) -> None:
    """All files of `source` into `folder`, made if need be; as it was if one can't be moved."""
    paths = sorted(source.iterdir())
    for path in paths:
        if (folder / path.name).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), folder / path.name)
    earlier = Path(tempfile.mkdtemp(dir=source))
    with contextlib.ExitStack() as undo:
        for missing in reversed([p for p in (folder, *folder.parents) if not p.exists()]):
            missing.mkdir()
            undo.callback(missing.rmdir)
        for path in paths:
            target, kept = folder / path.name, earlier / path.name
            if os.path.lexists(target):
                shutil.copy2(target, kept, follow_symlinks=False)
                undo.callback(kept.replace, target)
            else:
                undo.callback(target.unlink, missing_ok=True)
            path.replace(target)
        undo.pop_all()


@contextlib.contextmanager
def room_told(path: Path, written: Path) -> Iterator[None]:
    """Meanwhile a full disk is told with the path, what was written, what is free, and a remedy.

    Args:
        path: as its reader knows it.
        written: the file or folder that grows.

    Raises:
        OSError: the disk, a quota or the size of a file has reached its limit.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        files = written.rglob("*") if written.is_dir() else [written]
        size = sum(p.stat().st_size for p in files if p.is_file())
        free = shutil.disk_usage(nearest_folder(written)).free
        raise OSError(
            error.errno,
            f"{os.strerror(error.errno)}: {path} can't be written: {size / 1e6:.1f} MB of it were, "
            f"and {free / 1e6:.1f} MB are free; make room or name another place, and run again",
        ) from None


def nearest_folder(path: Path) -> Path:
    """The path itself if it exists, else the nearest one above it that does."""
    return next(p for p in (path, *path.absolute().parents) if p.exists())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
