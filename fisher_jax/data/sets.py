"""Data sets of the package datasets: folders that it saved, and sets on the hub by name."""

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from fisher_jax.data.contents import Table
from fisher_jax.data.example import PoolError
from fisher_jax.data.formats import of_table
from fisher_jax.data.rows import Rows
from fisher_jax.util.excerpt import one_line

_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SET_FILES = {"dataset_info.json", "state.json"}
_OF_A_SET = re.compile(r"dataset_info\.json|state\.json|data-\d+-of-\d+\.arrow")


class SavedSet:
    """A folder that `datasets.save_to_disk` wrote, of one split or of several."""

    @staticmethod
    def fits(name: str) -> bool:
        """Whether a folder is one."""
        return any((Path(name) / of).is_file() for of in ("state.json", "dataset_dict.json"))

    @staticmethod
    def names(folder: Path) -> frozenset[str]:
        """Of the files in a folder that is one and holds nothing else; else none."""
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        is_one = names >= _SET_FILES and all(map(_OF_A_SET.fullmatch, names))
        return frozenset(names if is_one else ())

    def read(self, name: str, part: "Part", rows: Rows) -> Table:
        """See `formats.Format`."""
        with _datasets(name) as datasets:
            found = datasets.load_from_disk(name)
        if isinstance(found, dict):
            found = _split_of(found, name, part.split)
        elif part.split is not None:
            raise PoolError(f"{name} has no splits: leave `split` out")
        return of_set(name, found, rows)


class HubSet:
    """A data set on the hub, `owner/name`, downloaded once."""

    @staticmethod
    def fits(name: str) -> bool:
        """Whether it may be the name of one."""
        return _HUB.fullmatch(name) is not None

    def read(self, name: str, part: "Part", rows: Rows) -> Table:
        """See `formats.Format`; without a split the only one, or `train`."""
        with _datasets(name) as datasets:
            found = datasets.load_dataset(name, part.subset, split=part.split)
        if part.split is None:
            found = _split_of(found, name, "train" if "train" in found else None)
        return of_set(name, found, rows)


class Part(NamedTuple):
    """Which part of a data set is meant.

    Attributes:
        split: such as train or test.
        subset: the hub's name of a configuration.
    """

    split: str | None = None
    subset: str | None = None


def is_set(rows: Any) -> bool:
    """Whether it is a `datasets.Dataset`, without importing that package."""
    module = sys.modules.get("datasets")
    return module is not None and isinstance(rows, module.Dataset)


def of_set(name: str, found: Any, rows: Rows) -> Table:
    """The rows of a `datasets.Dataset` in its order, see `formats.of_table`."""
    try:
        table = found.with_format("arrow")[:]
        table.validate(full=True)  # or a damaged file ends the process
    except pa.ArrowException as error:
        raise PoolError(f"{name} is damaged ({one_line(error)}): save it anew") from None
    return of_table(name, table.replace_schema_metadata(found.data.schema.metadata), rows)


def package_of_sets(name: str) -> Any:
    """The package datasets, which takes a second to import.

    Raises:
        PoolError: it is missing.
    """
    try:
        import datasets  # an extra
    except ImportError:
        raise PoolError(
            f"{name} needs the package datasets: pip install 'fisher-jax[data]'"
        ) from None
    return datasets


@contextlib.contextmanager
def without_bars(datasets: Any) -> Iterator[None]:
    """The package's progress bars are off."""
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def _datasets(name: str) -> Iterator[Any]:
    """The package, whose errors on a data set become ours."""
    datasets = package_of_sets(name)
    try:
        with without_bars(datasets):
            yield datasets
    except PoolError:
        raise
    except Exception as error:  # the hub's, the network's, and those of a dozen file formats
        reason = one_line(error) or type(error).__name__
        raise PoolError(
            f"{name} can't be read as a data set ({reason}): check its name, `subset` and `split`, "
            "and the network"
        ) from None


def _split_of(found: Any, name: str, split: str | None) -> Any:
    if split is None and len(found) == 1:
        (split,) = found
    if split not in found:
        asked = "several splits" if split is None else f"no split {split!r}"
        raise PoolError(f"{name} has {asked}, it has {', '.join(found)}: pass `split`")
    return found[split]
