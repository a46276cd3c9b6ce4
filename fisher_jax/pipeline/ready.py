"""A pool whose embeddings are at hand."""

from typing import Any, NamedTuple

import numpy as np

from fisher_jax.data.embeddings_file import read_embeddings
from fisher_jax.data.pool_file import PoolFile
from fisher_jax.design import TokenEmbeddings
from fisher_jax.models import file_sha256, standardize
from fisher_jax.pipeline.clock import Clock
from fisher_jax.pipeline.plan import Plan, check_enough, plan
from fisher_jax.pipeline.pool import EmbeddedPool
from fisher_jax.pipeline.request import Request, path_of
from fisher_jax.pipeline.sources import facts_of, read_rows
from fisher_jax.util.errors import UserError
from fisher_jax.util.files import unchanged


class ReadyPool(NamedTuple):
    """Embeddings, and the file whose rows they are if there is one."""

    request: Request
    file: PoolFile | None
    emb: TokenEmbeddings
    plan: Plan
    notes: list[str]
    facts: dict[str, Any]
    reading: str = ""  # no text is read
    calls: str = ""  # nothing is asked
    kept: str = ""  # nothing is embedded

    def embedded(self, clock: Clock) -> EmbeddedPool:
        """Centred and scaled."""
        request, emb = self.request, self.emb
        tokens = standardize(np.array(emb.tokens), request.normalize, request.center)
        return EmbeddedPool(
            self.file,
            TokenEmbeddings(tokens, emb.offsets),
            emb.lengths,
            np.arange(len(emb)),
            len(emb),
            self.notes,
            self.facts | facts_of("pool", self.file),
            {},
        )


def read_ready(request: Request, clock: Clock) -> ReadyPool:
    """Read the embeddings, and the rows as they will be written.

    Raises:
        UserError: either can't be used, or they are not of the same rows.
    """
    emb, path = request.embeddings, path_of(request.embeddings)
    facts = {}
    if not isinstance(emb, TokenEmbeddings):
        assert path is not None
        with unchanged(path):
            emb = read_embeddings(path)
            facts = {"embeddings": str(path), "embeddings_sha256": file_sha256(path)}
    file = None
    if request.pool is not None:
        file = read_rows(request.pool, "pool", request, needs_text=False)
        if len(file) != len(emb):
            raise UserError(
                f"{path or 'embeddings'} has {len(emb)} examples, {file.path} has "
                f"{len(file)} rows: they must be the same rows in the same order"
            )
    check_enough(request, len(emb), path if file is None else file.path)
    planned = plan(request, emb.lengths, emb.lengths, emb.dim)
    return ReadyPool(request, file, emb, planned, [], facts)
