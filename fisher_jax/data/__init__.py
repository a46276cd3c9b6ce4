"""Pools as rows: what a row is, the files that pools come from and selections go to, copies.

What is read and written stays readable; how a file's lines become rows may change.
"""

from fisher_jax.data.example import Example, Message, PoolError
from fisher_jax.data.shapes import Columns, example_of, examples_of

__all__ = [
    "Columns",
    "Example",
    "Message",
    "PoolError",
    "example_of",
    "examples_of",
]
