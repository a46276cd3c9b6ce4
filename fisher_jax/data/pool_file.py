"""A pool as it stands in files: what is read of its rows, and what is written again."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fisher_jax.data.contents import Content, Records, Several
from fisher_jax.data.example import Example, PoolError
from fisher_jax.data.formats import BY_SUFFIX, format_of
from fisher_jax.data.places import Source, files_of
from fisher_jax.data.rows import Rows
from fisher_jax.data.sets import HubSet, Part, SavedSet, is_set, of_set
from fisher_jax.data.shapes import Columns
from fisher_jax.util.excerpt import one_line
from fisher_jax.util.files import unchanged

SUFFIXES = tuple(BY_SUFFIX)
_IN_FOLDERS = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")


@dataclass(frozen=True)
class PoolFile:
    """A pool as it stands in its files.

    Attributes:
        path: as it was named.
        content: what is written again.
        rows: what is read; None where no text is needed.
        shape: which columns were taken for what, in words.
        bad: a line for each row that can't be used and was skipped.
        replaced: columns of an earlier selection, which are not written again.
        sha256: of the files as they lie there; of several, of their hashes.
    """

    path: str
    content: Content
    rows: Sequence[Example] | None
    shape: str = ""
    bad: Sequence[str] = ()
    replaced: Sequence[str] = ()
    sha256: str = ""

    def __len__(self) -> int:
        return len(self.content)

    def where(self, i: int) -> str:
        """Row i as a person would look for it."""
        return self.content.where(i)

    def preview(self, i: int) -> str:
        """Row i as a text to look at."""
        if self.rows is not None:
            return self.rows[i].preview()
        try:
            record = self.content.records([i])[0]
        except (ValueError, OverflowError):  # a date that Python has no value for
            return self.where(i)
        try:
            return Columns().shape_of(record).example(record).preview()
        except ValueError:  # nothing to learn is asked of rows whose text is not read
            return "\n".join(f"{name}: {value}" for name, value in record.items())

    def column(self, name: str, rows: Sequence[int] | np.ndarray) -> list[Any]:
        """A column's values in some rows, null (None) where a row lacks it.

        Raises:
            PoolError: no row has it, or Python has no value for one of its dates.
        """
        values, is_there = [], False
        for begin in range(0, len(rows), 4096):  # never all rows as Python objects
            at = [int(i) for i in rows[begin : begin + 4096]]
            try:
                records = self.content.records(at, name)
            except (ValueError, OverflowError) as error:
                raise PoolError(
                    f"{self.path}: column {name!r} can't be read ({one_line(error)}): name another"
                ) from None
            is_there |= any(name in record for record in records)
            values += [record.get(name) for record in records]
        if not is_there:
            raise PoolError(f"{self.path} has no column {name!r}: name one that it has")
        return values

    def first_without_prompt(self) -> int | None:
        """The first row that is not split into a prompt and a completion, and has something."""
        return next((i for i, row in enumerate(self.rows or ()) if row.lacks_prompt), None)


def read_pool(
    paths: str | Path | Sequence[str | Path],
    columns: Columns | None = None,
    *,
    part: Part | None = None,
    needs_text: bool = True,
    skip_bad: bool = False,
) -> PoolFile:
    """A pool of texts, of prompts with completions, or of chats, as `shapes.SHAPES` has them.

    Args:
        paths: a file (JSONL, JSON, CSV, Parquet, plain text; also .gz, .bz2, .xz, .zst), "-" for
            standard input, a pattern, a folder of such files or one that the package datasets
            saved, an address that fsspec reads, a data set on the hub as owner/name; or several.
        columns: which columns are meant; default as the first row tells.
        part: of a data set.
        needs_text: False for pools whose embeddings are at hand; their columns are not looked at.
        skip_bad: rows that can't be used are left out and listed.

    Raises:
        PoolError: a file or a row of it can't be used.
    """
    names = [str(path) for path in ([paths] if isinstance(paths, (str, Path)) else paths)]
    rows = Rows(columns, needs_text, skip_bad)
    contents, hashes = [], []
    for content, sha256 in _contents(names, part or Part(), rows):
        contents.append(content)
        hashes.append(sha256)
    content = contents[0] if len(contents) == 1 else Several(contents)
    joined = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    return _pool(" ".join(names), content, rows, joined)


def pool_of(
    records: Iterable[str | Mapping[str, Any]],
    columns: Columns | None = None,
    *,
    name: str = "rows",
    needs_text: bool = True,
    skip_bad: bool = False,
) -> PoolFile:
    """A pool of rows in Python: strings, or mappings, of which the first decides the columns.

    Raises:
        PoolError: no rows, or one that can't be used.
    """
    rows = Rows(columns, needs_text, skip_bad)
    if is_set(records):
        content: Content = of_set(name, records, rows)
    else:
        rows.begin(name, "row")
        kept = [
            (number, record)
            for number, row in enumerate(records)
            if rows.add(record := {"text": row} if isinstance(row, str) else row, number)
        ]
        content = Records(name, [record for _, record in kept], [number for number, _ in kept])
    return _pool(name, content, rows)


def _pool(name: str, content: Content, rows: Rows, sha256: str = "") -> PoolFile:
    if len(content) == 0 and rows.bad:
        raise PoolError(
            f"{name} has no row that can be used: the first, {rows.bad[0]}: mend them, or name "
            "other columns"
        )
    if len(content) == 0:
        raise PoolError(f"{name} is empty: a pool needs at least one row")
    examples = rows.examples if rows.needs_text else None
    shape = " and ".join(rows.shapes)
    return PoolFile(name, content, examples, shape, rows.bad, sorted(rows.replaced), sha256)


def _contents(names: Sequence[str], part: Part, rows: Rows) -> Iterator[tuple[Content, str]]:
    """Each file's content and hash."""
    for name in names:
        if SavedSet.fits(name):
            with ExitStack() as stack:
                for file in files_of(name):
                    stack.enter_context(unchanged(Path(file)))
                yield SavedSet().read(name, part, rows), hash_of_folder(name)
        elif is_set_name(name):
            yield HubSet().read(name, part, rows), ""
        else:
            for file in _files(name):
                with unchanged(Path(file)) if Path(file).is_file() else nullcontext():
                    source = Source(file)
                    yield format_of(source, rows.columns).read(source, rows), source.sha256


def is_set_name(name: str) -> bool:
    """Whether a data set of the package datasets is meant, saved or on the hub."""
    is_file = Path(name).exists() or Source(name).suffix in BY_SUFFIX
    return SavedSet.fits(name) or (not is_file and HubSet.fits(name))


def _files(name: str) -> list[str]:
    """The files that a name means; of a folder only those of the first format that is there."""
    files = files_of(name)
    if not Path(name).is_dir():
        return files
    for suffix in _IN_FOLDERS:
        if some := [file for file in files if Source(file).suffix == suffix]:
            return some
    raise PoolError(f"{name} is a folder without {', '.join(_IN_FOLDERS)}: name another")


def hash_of_folder(name: str) -> str:
    """Of the files in it, in order."""
    hashes = [Source(file).sha256 for file in files_of(name)]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
