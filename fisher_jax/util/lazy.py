"""Names that a package's door gives out but imports only when they are first asked for."""

import importlib
import sys
from collections.abc import Callable
from typing import Any


def lazily(package: str, names: dict[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` (PEP 562) of a package whose names come from other modules.

    Beside it the package imports the same names under `if TYPE_CHECKING:`, for editors and type
    checkers.

    Args:
        package: `__name__` of the package.
        names: by module, its names that are given out, with spaces between.
    """
    home = {name: module for module, own in names.items() for name in own.split()}

    def __getattr__(name: str) -> Any:  # noqa: N807
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(home[name]), name)
        setattr(sys.modules[package], name, value)  # the next look-up finds it
        return value

    return __getattr__
