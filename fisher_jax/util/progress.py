"""How long work says how far it is."""

from collections.abc import Callable

OnProgress = Callable[[int], None]  # called with what is done; the function says of what
