"""Pools as rows: what a row is, the files that pools come from and selections go to, copies.

What is read and written stays readable; how a file's lines become rows may change.
"""

from fisher_jax.data.rows import Chat, PoolError, PromptCompletion, Row, row_of

__all__ = [
    "Chat",
    "PoolError",
    "PromptCompletion",
    "Row",
    "row_of",
]
