"""Where a selection is written: checked before the work, there whole or not at all."""

import contextlib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from os.path import realpath
from pathlib import Path
from typing import Any

from fisher_jax.data import PoolError
from fisher_jax.data.output import WRITERS
from fisher_jax.data.places import files_of
from fisher_jax.data.pool_file import PoolFile
from fisher_jax.data.sets import SavedSet
from fisher_jax.pipeline.request import SOURCES, Request, names_of, path_of
from fisher_jax.report import FILES
from fisher_jax.util.errors import UserError
from fisher_jax.util.files import (
    check_room,
    nearest_folder,
    remove_leftovers,
    replacing,
    replacing_files,
)
from fisher_jax.util.locks import only_writer, signals_held

Hold = Callable[[], AbstractContextManager[None]]

REPORT_BYTES = 100_000  # of figures and a page; more with long rows
SAMPLE_ROWS = 200


@dataclass(frozen=True)
class Output:
    """The file of the chosen rows and the folder of their report.

    Attributes:
        out: .jsonl, .json or .parquet; without an ending a folder of the package datasets.
        report_dir: gets the files of `report.FILES`, and keeps others.
        overwrite: replace what is there.
    """

    out: Path
    report_dir: Path
    overwrite: bool = False

    @classmethod
    def of(
        cls,
        out: str | os.PathLike[str],
        report_dir: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
    ) -> "Output":
        """With the usual `report_dir` if there is none: OUT.report."""
        out = Path(out)
        report = out.with_name(f"{out.name}.report") if report_dir is None else Path(report_dir)
        return cls(out, report, overwrite)

    def check(self, request: Request) -> None:
        """Refuse places that can't be written to, or are read for the request.

        Raises:
            UserError: with another place to write to.
        """
        out, report_dir = self.out, self.report_dir
        if out.suffix not in WRITERS:
            raise UserError(
                f"`out` must end in .jsonl, .json or .parquet, or be a new folder, got {out}"
            )
        if not out.parent.is_dir():
            raise UserError(f"the folder {out.parent} of `out` does not exist: make it first")
        sources = [getattr(request, name) for name in SOURCES]
        named = [name for source in sources for name in names_of(source)]
        read = [Path(file) for name in named for file in _files_of(name)]
        for path in read:
            if path.exists() and out.exists() and out.samefile(path):
                raise UserError(f"`out` {out} is {path}, which is read: name another file")
        for place, folder in itertools.product((out, report_dir), map(Path, named)):
            if folder.is_dir() and Path(realpath(folder)) in Path(realpath(place)).parents:
                raise UserError(
                    f"{place} is inside {folder}, which is read, and would be read by the next "
                    "run: name a place outside"
                )
        if (answers := path_of(request.answers)) is not None:
            for path in (*read, report_dir):
                if realpath(path) == realpath(answers):
                    raise UserError(
                        f"{path} is where the endpoint's answers go: name another `out`"
                    )
        report = Path(realpath(report_dir))
        if Path(realpath(out)) in (report, *report.parents):
            raise UserError(f"`report_dir={report_dir}` is `out` or inside it: name another")
        if os.path.lexists(report_dir) and not report_dir.is_dir():
            raise UserError(f"`report_dir={report_dir}` is not a folder: name another")
        reports = {realpath(report_dir / name) for name in FILES}
        for path in (*read, out):
            if realpath(path) in reports:
                raise UserError(f"the report would replace {path}: name another `report_dir`")
        self.check_earlier()
        for folder, name in (
            (out.parent, out.name),
            (nearest_folder(report_dir), report_dir.name),
        ):
            try:
                with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{name}.", suffix=".tmp"):
                    pass
            except OSError as error:
                raise UserError(
                    f"can't write {name} into {folder} ({error.strerror}): choose another place "
                    "or name"
                ) from None

    def check_room(self, file: PoolFile | None, share: float) -> None:
        """Refuse a disk that can't hold this share of the rows, and their report.

        Rows are measured on a sample; half of that must be free, for tables, which are compressed,
        an eighth.

        Raises:
            UserError: with what is needed, what is free, and where.
        """
        needed = REPORT_BYTES
        if file is not None:
            sample = range(0, len(file), -(-len(file) // SAMPLE_ROWS))
            if self.out.suffix in ("", ".parquet"):
                size = file.content.table(sample, file.replaced).nbytes / 8
            else:
                lines = file.content.json_lines(sample, file.replaced)
                size = sum(len(line.encode()) for line in lines) / 2
            needed += int(size / len(sample) * len(file) * share)
        for path in (self.out, self.report_dir):
            remedy = "make room or name another place"
            check_room(path.parent, needed, f"{path} and its report", remedy)

    def check_earlier(self) -> None:
        """Refuse to replace what is there, unless that was asked for.

        Raises:
            UserError: an output exists, or is no file.
        """
        outputs = [self.out, *(self.report_dir / name for name in FILES)]
        existing = [path for path in outputs if path.exists() or path.is_symlink()]
        for path in existing:
            is_set = path == self.out and not path.suffix and SavedSet.names(path)
            if path.exists() and not path.is_file() and not is_set:
                what = "a folder" if path.is_dir() else "a pipe or a device"
                raise UserError(f"{path} is {what}, not a file: name another output")
        if existing and not self.overwrite:
            raise UserError(f"{existing[0]} exists: name another output or pass `overwrite`")

    @contextlib.contextmanager
    def reserved(self) -> Iterator[None]:
        """Meanwhile no other process writes there; what a killed one has left is removed.

        Raises:
            UserError: another process does, or has written an output meanwhile.
        """
        with only_writer(self.out), only_writer(self.report_dir):
            for path in (self.out, self.report_dir):
                remove_leftovers(path)
            self.check_earlier()
            yield

    @contextlib.contextmanager
    def replaced(self, hold: Hold = signals_held) -> Iterator[tuple[Path, Path]]:
        """A file and a folder to write to, which take the places of these if all goes well.

        Args:
            hold: what a signal has to wait for: from the last check to the last rename.

        Raises:
            UserError: an output has come meanwhile.
        """
        with contextlib.ExitStack() as last:
            if self.out.suffix:
                file = last.enter_context(replacing(self.out))
            else:
                file = last.enter_context(replacing_files(self.out, SavedSet.names(self.out)))
            folder = last.enter_context(replacing_files(self.report_dir, FILES))
            yield file, folder
            with hold():
                self.check_earlier()
                last.close()

    def as_options(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "out": str(self.out),
            "report_dir": str(self.report_dir),
            "overwrite": self.overwrite,
        }


def _files_of(name: str) -> list[str]:
    """The files that a source means; of a data set's name itself."""
    try:
        return files_of(name)
    except PoolError:
        return [name]
