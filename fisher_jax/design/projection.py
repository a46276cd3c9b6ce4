"""Fewer dimensions for a selection from a wide model's embeddings, by a random projection."""

import numpy as np
from jaxtyping import Float

from fisher_jax.design.embeddings import TokenEmbeddings, aligned
from fisher_jax.util.errors import UserError
from fisher_jax.util.streams import stream


def check_narrower(to: int, dim: int, name: str = "to") -> None:
    """Refuse a width that embeddings of width `dim` can't be projected to.

    Raises:
        UserError: it is not from 1 to dim - 1; the message calls it `name`.
    """
    if not 1 <= to < dim:
        raise UserError(f"{name} must be from 1 to {dim - 1}, below the width {dim}, got {to}")


def projection(dim: int, to: int, seed: int) -> Float[np.ndarray, "D K"]:
    """A Gaussian random projection G (D, K): independent N(0, 1/K) numbers, a token x becomes x G.

    `E |x G|^2 = |x|^2`, so a ridge means what it did. Inner products stay as well: of T tokens all
    distances keep to 1 +- eps with K of about 8 log(T) / eps^2 (Johnson & Lindenstrauss 1984;
    Dasgupta & Gupta 2003).

    Of log det: let A (m, D) be the tokens of a selection S, of rank r, and f_K(S) what f(S) becomes
    by A G. `f(S) = log det(I + A A^T / ridge)`, and G scales the singular values of A by factors
    within 1 +- eta, `eta = sqrt(r / K) + t`, with probability 1 - 2 exp(-K t^2 / 2) (Davidson &
    Szarek 2001). So with eta below 1, for a selection that does not depend on G,

        |f_K(S) - f(S)| <= 2 r log(1 / (1 - eta)).

    Where r is above K nothing is promised: f_K sees K directions at most. How much of f selections
    keep there stands in docs/scaling.md, from measurements.

    Args:
        dim: D, the embeddings' width.
        to: K, below D.
        seed: of the numbers, which have a stream of their own.

    Raises:
        UserError: K is not from 1 to D - 1.
    """
    check_narrower(to, dim)
    numbers_DxK = stream(seed, "project_dim").standard_normal((dim, to), np.float32)
    return numbers_DxK / np.float32(np.sqrt(to))


def projected(emb: TokenEmbeddings, matrix_DxK: Float[np.ndarray, "D K"]) -> TokenEmbeddings:
    """Every token x as x G; the precision stays."""
    tokens_TxK = aligned((len(emb.tokens), matrix_DxK.shape[1]), emb.dtype)
    np.matmul(emb.tokens, matrix_DxK.astype(emb.dtype, copy=False), out=tokens_TxK)
    return TokenEmbeddings(tokens_TxK, emb.offsets)
