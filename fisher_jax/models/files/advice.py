"""Transformers' advice, which nobody has asked for."""

import contextlib
import os
from collections.abc import Iterator

_SWITCH = "TRANSFORMERS_NO_ADVISORY_WARNINGS"


@contextlib.contextmanager
def no_advice() -> Iterator[None]:
    """Meanwhile transformers does not say that it found no PyTorch, which we do not need."""
    before = os.environ.get(_SWITCH)
    os.environ[_SWITCH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SWITCH]
        else:
            os.environ[_SWITCH] = before
