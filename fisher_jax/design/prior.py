"""Rows that are there already, folded into the embeddings of those that may be added."""

import numpy as np

from fisher_jax.design.embeddings import READ_AT_ONCE, TokenEmbeddings, as_targets
from fisher_jax.design.fresh_root import add_tokens


def beyond(emb: TokenEmbeddings, initial: TokenEmbeddings, ridge: float | int) -> TokenEmbeddings:
    """Embeddings whose information is what rows add to the initial ones.

    With `V_0 = ridge I + sum over the initial rows of X^T X` they are `X (V_0 / ridge)^(-1/2)`, so
    that f of any selection, in nats, is `log det(V_0 + sum X^T X) - log det V_0`, and so are all
    gains. Computed in float64; precision and offsets are those of `emb`.

    Raises:
        UserError: initial rows of another width.
    """
    as_targets(emb, initial, "initial")
    information = ridge * np.eye(emb.dim)
    add_tokens(information, initial.tokens)
    values, vectors = np.linalg.eigh(information / ridge)
    shrink_DxD = (vectors / np.sqrt(values)) @ vectors.T
    tokens = np.empty_like(emb.tokens)
    for begin in range(0, len(tokens), READ_AT_ONCE):
        some = slice(begin, begin + READ_AT_ONCE)
        tokens[some] = emb.tokens[some].astype(np.float64) @ shrink_DxD
    return TokenEmbeddings(tokens, emb.offsets)
