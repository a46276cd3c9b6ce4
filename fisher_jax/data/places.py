"""Where pools lie: files, patterns, standard input, remote addresses, compressed or not."""

import bz2
import contextlib
import functools
import glob
import gzip
import hashlib
import io
import lzma
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fisher_jax.data.example import PoolError
from fisher_jax.util.excerpt import one_line

STDIN = "-"
_REMOTE = re.compile(r"[a-z][a-z0-9+.]+(::[a-z0-9+]+)*://", re.IGNORECASE)


class Source:
    """A file to be read, once.

    Args:
        name: a path, an address, or "-".
    """

    def __init__(self, name: str) -> None:
        self.address = name
        self.name = "standard input" if name == STDIN else name
        plain = Path(re.sub(r"[?#].*", "", name) if is_remote(name) else name)
        self.packed = plain.suffix.lower() if plain.suffix.lower() in _UNPACK else ""
        self.suffix = Path(plain.stem if self.packed else plain.name).suffix.lower()

    def data(self) -> bytes:
        """All of the file, unpacked.

        Raises:
            PoolError: it can't be read, or unpacked.
        """
        return self._unpacked

    def file(self) -> Path | io.BytesIO:
        """The same as a file; a local one isn't read."""
        is_local = not (self.packed or self.address == STDIN or is_remote(self.address))
        return Path(self.address) if is_local else io.BytesIO(self.data())

    @functools.cached_property
    def sha256(self) -> str:
        """Of the file as it lies there."""
        if isinstance(self.file(), Path):
            with Path(self.address).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        return hashlib.sha256(self._bytes).hexdigest()

    @functools.cached_property
    def _bytes(self) -> bytes:
        if self.address == STDIN:
            return sys.stdin.buffer.read()
        if is_remote(self.address):
            return _remote(self.address)
        return Path(self.address).read_bytes()

    @functools.cached_property
    def _unpacked(self) -> bytes:
        packed = self.packed
        if self.address == STDIN:
            begin = self._bytes[:6]
            packed = next((of for of, magic in _MAGIC.items() if begin.startswith(magic)), "")
        if not packed:
            return self._bytes
        try:
            return _UNPACK[packed](self._bytes)
        except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
            raise PoolError(
                f"{self.name} can't be unpacked ({one_line(error)}): get it anew"
            ) from None


def is_remote(name: str) -> bool:
    """Whether it is an address such as https://..., s3://..., hf://..."""
    return _REMOTE.match(name) is not None


def files_of(name: str) -> list[str]:
    """The files that a path or a pattern means; of a folder those in it.

    Raises:
        PoolError: there is none.
    """
    path = Path(name)
    if is_remote(name):
        return _remote_files(name) if "*" in name else [name]
    if name == STDIN or path.is_file():
        return [name]
    if path.is_dir():
        paths = sorted(p for p in path.rglob("*") if p.is_file() and not _is_hidden(p, path))
    else:
        paths = sorted(p for p in map(Path, glob.glob(name, recursive=True)) if p.is_file())  # noqa: PTH207
    if not paths and path.is_dir():
        raise PoolError(f"{name} is a folder without files: name a .jsonl, .parquet or .txt pool")
    if not paths:
        raise PoolError(
            f"there is no file {name}: name a .jsonl, .json, .csv, .parquet or .txt pool, or a "
            "data set on the hub as owner/name"
        )
    return [str(p) for p in paths]


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)


def _remote(address: str) -> bytes:
    with _fsspec(address) as fsspec:
        opened: Any = fsspec.open(address, "rb")
        with opened as file:
            return file.read()


def _remote_files(pattern: str) -> list[str]:
    with _fsspec(pattern) as fsspec:
        system, path = fsspec.url_to_fs(pattern)
        found = sorted(system.unstrip_protocol(name) for name in system.glob(path))
        if not found:
            raise FileNotFoundError
        return found


@contextlib.contextmanager
def _fsspec(address: str) -> Iterator[Any]:
    """The package fsspec, whose errors on an address become ours."""
    try:
        import fsspec  # comes with huggingface-hub; the protocols' packages may not

        yield fsspec
    except ImportError as error:
        raise PoolError(
            f"{address} needs a package ({one_line(error)}): pip install 'fisher-jax[data]', or "
            "that package"
        ) from None
    except FileNotFoundError:
        raise PoolError(
            f"there is no file {address}, or it is private: check the address, and log in where it "
            "needs that"
        ) from None
    except Exception as error:  # each protocol has errors of its own
        reason = one_line(error) or type(error).__name__
        raise PoolError(
            f"{address} can't be read ({reason}): check the address and the network"
        ) from None


def _zstd(data: bytes) -> bytes:
    import pyarrow as pa

    try:
        return pa.CompressedInputStream(pa.BufferReader(data), "zstd").read()
    except pa.ArrowException as error:
        raise ValueError(str(error)) from None


_UNPACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
    ".zst": _zstd,
}
_MAGIC = {".gz": b"\x1f\x8b", ".bz2": b"BZh", ".xz": b"\xfd7zXZ\0", ".zst": b"\x28\xb5\x2f\xfd"}
