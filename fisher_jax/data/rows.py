"""A pool's examples while its files are read, and the rows that can't be used."""

from collections.abc import Collection, Mapping
from typing import Any

from fisher_jax.data.example import Example, PoolError
from fisher_jax.data.shapes import Columns, Shape, check_columns
from fisher_jax.util.excerpt import kind_of

REMEDY = "mend or remove the row, or pass `skip_bad`"
RANKS = RANK, GAIN, WEIGHT = "fisher_rank", "fisher_gain", "fisher_weight"


class Rows:
    """What a format tells of each row, and what becomes of it.

    Args:
        columns: what the user says of them.
        needs_text: False where no row's text is looked at.
        skip_bad: keep a list of rows that can't be used, instead of refusing the first.

    Attributes:
        examples: one a row that is kept; empty where no text is needed.
        shapes: of the files so far, without repetition.
        bad: a line for each row that can't be used.
        replaced: columns of an earlier selection, which the next one replaces.
    """

    def __init__(
        self, columns: Columns | None = None, needs_text: bool = True, skip_bad: bool = False
    ) -> None:
        self.columns, self.needs_text, self.skip_bad = columns or Columns(), needs_text, skip_bad
        self.examples: list[Example] = []
        self.shapes: dict[str, None] = {}
        self.bad: list[str] = []
        self.replaced: set[str] = set()
        self._name, self._unit = "", ""
        self._shape: Shape | None = None

    def begin(self, name: str, unit: str) -> None:
        """The next file, whose first row decides its shape; its rows are called `unit`."""
        self._name, self._unit, self._shape = name, unit, None

    def shape_of(self, names: Collection[str], where: str) -> Shape | None:
        """The file's shape, by the names of its columns or of its first row's.

        Raises:
            PoolError: no shape that is known, or one of a column that we write.
        """
        self.replaced.update({*RANKS} & {*names})
        if self.needs_text:
            try:
                self._shape = self.columns.shape_of(names)
            except PoolError as error:
                raise PoolError(f"{where} {error}") from None
            if ours := [column for column in self._shape.columns if column in RANKS]:
                raise PoolError(f"{where} has its text in {ours[0]!r}, which we write: rename it")
            self.shapes.setdefault(self._shape.told(names))
        return self._shape

    def add(self, record: Any, number: int) -> bool:
        """A row, with its number in the file. Is it kept?

        Raises:
            PoolError: it can't be used, and such rows may not be skipped.
        """
        if not isinstance(record, Mapping):
            what = f"is {kind_of(record)}, not a JSON object with columns"
            return self.refuse(number, f"{what}: mend or remove it, or pass `skip_bad`")
        shape = self._shape
        if shape is None:
            shape = self.shape_of(record, self._where(number))
            if shape is None:
                return True
        try:
            self.examples.append(shape.example(record))
            return True
        except KeyError:
            try:
                check_columns(shape, record)
            except PoolError as error:
                what, _, remedy = str(error).rpartition(": ")
                return self.refuse(number, what, remedy)
            raise
        except ValueError as error:
            return self.refuse(number, f"column {error}", between=": ")

    def refuse(self, number: int, what: str, remedy: str = REMEDY, between: str = " ") -> bool:
        """A row that can't be used, which is never kept.

        Raises:
            PoolError: it may not be skipped; with the remedy, which `bad` has not.
        """
        message = f"{self._where(number)}{between}{what}"
        if not self.skip_bad:
            raise PoolError(f"{message}: {remedy}")
        self.bad.append(message)
        return False

    def _where(self, number: int) -> str:
        return f"{self._name}, {self._unit} {number}"
