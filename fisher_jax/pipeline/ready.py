"""A pool whose embeddings are at hand."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from fisher_jax.data.pool_file import PoolFile
from fisher_jax.design import TokenEmbeddings, as_targets
from fisher_jax.pipeline.clock import Clock
from fisher_jax.pipeline.copies import without_copies
from fisher_jax.pipeline.plan import Plan, check_enough, plan, spending
from fisher_jax.pipeline.pool import EmbeddedPool, notes_on_choosing, standardized
from fisher_jax.pipeline.request import Request, path_of
from fisher_jax.pipeline.row_values import NO_VALUES, RowValues, read_values
from fisher_jax.pipeline.sources import facts_of, notes_of, read_rows, read_states
from fisher_jax.util.errors import UserError


class ReadyPool(NamedTuple):
    """Embeddings of the rows that may be chosen, and the file whose rows they are if there is one.

    Attributes:
        rows: which rows of the file they are.
        n_rows: of the file.
        beside: embeddings of `targets` and of `initial` rows.
        budget: what may be spent, as rules take it.
        values: what columns say of each row.
    """

    request: Request
    file: PoolFile | None
    emb: TokenEmbeddings
    rows: Int[np.ndarray, "N"]
    n_rows: int
    beside: dict[str, TokenEmbeddings]
    budget: dict[str, Any]
    values: RowValues
    plan: Plan
    notes: list[str]
    facts: dict[str, Any]
    reading: str = ""  # nothing is tokenised
    calls: str = ""  # nothing is asked
    kept: str = ""  # nothing is embedded

    def embedded(self, clock: Clock) -> EmbeddedPool:
        """Centred, scaled and projected."""
        hidden, *beside = (
            TokenEmbeddings(np.array(emb.tokens), emb.offsets)  # a copy, to be changed in place
            for emb in (self.emb, *self.beside.values())
        )
        emb, added, targets = standardized(
            self.request, hidden, dict(zip(self.beside, beside, strict=True))
        )
        scores = {} if targets is None else {"targets": targets}
        return EmbeddedPool(
            self.file,
            emb,
            added,
            emb.lengths,
            self.budget,
            self.values,
            self.rows,
            self.n_rows,
            self.notes,
            self.facts,
            scores,
        )


def read_ready(request: Request, clock: Clock) -> ReadyPool:
    """Read the embeddings, and the rows as they will be written.

    Raises:
        UserError: either can't be used, or they are not of the same rows.
    """
    with clock.timed("read"):
        emb, facts = read_states("embeddings", request)
        path, file = path_of(request.embeddings), None
        if request.pool is not None:
            file = read_rows("pool", request, needs_text=request.reads_text)
            if len(file) != len(emb):
                raise UserError(
                    f"{path or 'embeddings'} has {len(emb)} examples, {file.path} has "
                    f"{len(file)} rows: they must be the same rows in the same order"
                )
        beside = {}
        for name, option in (("targets", "target_embeddings"), ("initial", "initial_embeddings")):
            if getattr(request, option) is not None:
                states, more = read_states(option, request)
                beside[name] = as_targets(emb, states, f"`{option}`")
                facts |= more
    n_rows = len(emb)
    kept = without_copies(request, n_rows, file, emb, clock)
    check_enough(request, len(kept.at), path if file is None else file.path)
    at, values = kept.at, NO_VALUES
    if file is not None:
        file, at, values = read_values(request, file, at)
        check_enough(request, len(at), file.path)
    if len(at) < n_rows:
        emb = emb.take(at)
    planned = plan(request, emb.lengths, emb.lengths, emb.dim, values=values)
    budget = spending(request, emb.lengths, values, planned.total)
    notes = notes_of(file) + kept.notes + notes_on_choosing(request, emb.dim)
    facts |= facts_of("pool", file) | kept.facts
    return ReadyPool(request, file, emb, at, n_rows, beside, budget, values, planned, notes, facts)
