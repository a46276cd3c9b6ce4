"""Files and folders that are there whole or not at all."""

import contextlib
import ctypes
import errno
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from safetensors import SafetensorError

from fisher_jax.util.errors import UserError

_SUFFIX, _EARLIER, _RANDOM = ".tmp", ".earlier", 8  # characters that tempfile puts between
_LONGEST = 200  # bytes of a name, to which others are added; file systems take 255
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows: no quotas


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place if all goes well, and goes if not."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_SUFFIX)
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
def replacing_files(folder: Path, ours: Collection[str] = ()) -> Iterator[Path]:
    """A temporary folder whose files move into `folder` if all goes well, and go if not.

    Where `folder` is new, or holds nothing but files of the names in `ours`, the whole takes its
    place by a rename. Other files in it stay: then ours move one by one, earlier ones that are not
    written again go, and where one can't be moved, all is taken back and restored.

    Raises:
        IsADirectoryError: a folder is where a file should go.
    """
    near, name = beside(folder)
    may_go = not folder.exists() or (not folder.is_mount() and os.access(near, os.W_OK))
    as_whole = may_go and _holds_only(folder, ours)
    temporary = _temporary_folder(near if as_whole else folder, name if as_whole else folder.name)
    try:
        with room_told(folder, temporary):
            yield temporary
            _place(temporary, folder, as_whole and _holds_only(folder, ours), ours)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `folder`, and of all in it, if all goes well."""
    temporary = _temporary_folder(*beside(folder))
    try:
        with room_told(folder, temporary), contextlib.ExitStack() as undo:
            yield temporary
            _make(folder.parent, undo)
            _move_folder(temporary, folder.resolve())
            undo.pop_all()
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(path: Path) -> None:
    """Remove what a killed process has left of `replacing` or `replacing_files` for this path.

    An earlier folder that it had moved away, and had no time to replace, is put back. No other
    process may be writing there meanwhile.
    """
    target = path.resolve()
    for folder, name in {beside(path), (nearest_folder(path), path.name), beside(target)}:
        for left in sorted(folder.iterdir()) if folder.is_dir() else ():
            if _is_left(left, name, _EARLIER) and not target.exists():
                left.rename(target)
            elif _is_left(left, name, _SUFFIX) or _is_left(left, name, _EARLIER):
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _is_left(path: Path, name: str, suffix: str) -> bool:
    middle = path.name.removeprefix(f".{name}.").removesuffix(suffix)
    return path.name == f".{name}.{middle}{suffix}" and len(middle) == _RANDOM


def remove_leftovers_in(folder: Path) -> None:
    """Remove what a killed process has left of `replacing`, whatever it wrote in this folder."""
    for left in folder.glob(f".*.{'?' * _RANDOM}{_SUFFIX}"):
        if left.is_file():
            left.unlink(missing_ok=True)


def _holds_only(folder: Path, names: Collection[str]) -> bool:
    """True also of a folder that is not there."""
    return not folder.exists() or {path.name for path in folder.iterdir()} <= {*names}


def _temporary_folder(at: Path, name: str, suffix: str = _SUFFIX) -> Path:
    return Path(tempfile.mkdtemp(dir=at, prefix=f".{name}.", suffix=suffix))


def _place(source: Path, folder: Path, as_whole: bool, ours: Collection[str]) -> None:
    """The files of `source` in `folder`, which is as it was if that can't be."""
    for path in source.iterdir():
        if (folder / path.name).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), folder / path.name)
    with contextlib.ExitStack() as undo:
        if as_whole:
            _make(folder.parent, undo)
            _move_folder(source, folder.resolve())
        else:
            _make(folder, undo)
            _move_files(source, folder, undo, ours)
        undo.pop_all()


def _make(folder: Path, undo: contextlib.ExitStack) -> None:
    """The folder and those above it that there are not."""
    for missing in reversed([p for p in (folder, *folder.parents) if not p.exists()]):
        missing.mkdir()
        undo.callback(missing.rmdir)


def _move_folder(source: Path, folder: Path) -> None:
    """`source` in the place of `folder`, by a rename; as it was if that can't be."""
    if not folder.exists():
        source.chmod(0o777 & ~_umask())
        source.rename(folder)
        return
    source.chmod(folder.stat().st_mode)
    if _exchange(source, folder):  # the earlier one is temporary now
        return
    earlier = _temporary_folder(folder.parent, folder.name, _EARLIER)
    try:
        folder.rename(earlier)
        source.rename(folder)
    except BaseException:
        if not folder.exists():
            earlier.rename(folder)
        raise
    finally:
        shutil.rmtree(earlier, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Two paths change places in one step; False where the system or the disk can't do that."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            swap, at, flag = libc.renameatx_np, -2, 2  # AT_FDCWD, RENAME_SWAP
        else:
            swap, at, flag = libc.renameat2, -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    except (OSError, AttributeError, TypeError):  # another system, or an old C library
        return False
    sys.audit("os.rename", one, other, -1, -1)  # as os.rename does
    return swap(at, os.fsencode(one), at, os.fsencode(other), flag) == 0


def _move_files(
    source: Path, folder: Path, undo: contextlib.ExitStack, ours: Collection[str]
) -> None:
    """All files of `source` into `folder`, where no other of `ours` stays; how to undo moves."""
    paths = sorted(source.iterdir())
    earlier = Path(tempfile.mkdtemp(dir=source))
    for path in paths:
        target, kept = folder / path.name, earlier / path.name
        if os.path.lexists(target):
            shutil.copy2(target, kept, follow_symlinks=False)
            undo.callback(kept.replace, target)
        else:
            undo.callback(target.unlink, missing_ok=True)
        path.replace(target)
    for name in {*ours} - {path.name for path in paths}:
        if (folder / name).is_file():
            (folder / name).replace(earlier / name)
            undo.callback((earlier / name).replace, folder / name)


@contextlib.contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """Refuse a file that is written to while it is read.

    Raises:
        UserError: its size, time or identity are others at the end.
    """
    before = _stamp(path)
    yield
    if _stamp(path) != before:
        raise UserError(f"{path} changed while it was read: wait until it is whole, and run again")


def _stamp(path: Path) -> tuple[int, ...] | None:
    with contextlib.suppress(OSError):
        facts = path.stat()
        return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns
    return None


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
    except (OSError, SafetensorError) as error:
        told = error.strerror if isinstance(error, OSError) else str(error)
        numbers = [n for n in _FULL if f"os error {n}" in str(error)]  # as safetensors tells them
        number = error.errno if isinstance(error, OSError) else next(iter(numbers), None)
        if number not in _FULL:
            raise
        files = written.rglob("*") if written.is_dir() else [written]
        size = sum(p.stat().st_size for p in files if p.is_file())
        free = shutil.disk_usage(nearest_folder(written)).free
        raise OSError(
            number,
            f"{told}: {path} can't be written: {size / 1e6:.1f} MB of it were, "
            f"and {free / 1e6:.1f} MB are free; make room or name another place, and run again",
        ) from None


def check_room(path: Path, n_bytes: int, what: str, remedy: str) -> None:
    """Refuse what has no room on the disk of a path, where that tells its size.

    Args:
        path: where it is to be, existing or not.
        n_bytes: that it needs.
        what: it is, in the plural.
        remedy: what to do.

    Raises:
        UserError: fewer bytes are free.
    """
    folder = nearest_folder(path)
    disk = shutil.disk_usage(folder)
    if disk.total and disk.free < n_bytes:
        raise UserError(
            f"{what} need about {n_bytes / 1e6:.1f} MB, and {disk.free / 1e6:.1f} MB are free in "
            f"{folder}: {remedy}"
        )


def nearest_folder(path: Path) -> Path:
    """The path itself if it exists, else the nearest one above it that does."""
    return next(p for p in (path, *path.absolute().parents) if p.exists())


def beside(path: Path) -> tuple[Path, str]:
    """The nearest folder that exists above a path, and a name for the path there.

    That is the path from there with dots, or its hash where a file could not be called so.
    """
    near = nearest_folder(path.parent)
    name = ".".join(path.absolute().relative_to(near.absolute()).parts)
    encoded = os.fsencode(name)
    return near, name if len(encoded) <= _LONGEST else hashlib.sha256(encoded).hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
