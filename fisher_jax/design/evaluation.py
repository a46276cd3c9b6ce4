"""What given rows are worth: gains along a sequence, and of all that is left."""

import contextlib
from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fisher_jax.design import greedy
from fisher_jax.design.budget import Budget
from fisher_jax.design.device_pool import make_pool
from fisher_jax.design.embeddings import (
    PoolLike,
    TokenEmbeddings,
    TokenSource,
    as_source,
    pieces,
)
from fisher_jax.design.fresh_root import REFRESH, fresh_root
from fisher_jax.design.precision import computing, in_precision
from fisher_jax.design.ranking import Selection
from fisher_jax.design.streaming import Stream
from fisher_jax.util.checks import check_ridge
from fisher_jax.util.errors import UserError
from fisher_jax.util.platforms import fits
from fisher_jax.util.progress import OnProgress

TOKENS_AT_ONCE = 128  # of a sequence that is only measured


def evaluate(
    emb: PoolLike | TokenSource, ranking: Sequence[int] | np.ndarray, ridge: float | int = 1.0
) -> Selection:
    """The `Selection` of a given sequence: its marginal gains and log-determinant, as `select`'s.

    Gain k is `log det(I + X V^-1 X^T)` in nats, V the ridge and the k examples before it.

    Args:
        emb: the pool.
        ranking: (n,) indices of it.
        ridge: positive; V = ridge I before the first.

    Raises:
        ValueError: a wrong ridge, no index, one outside the pool, or one that stands twice.
    """
    emb = as_source(emb)
    order = _checked_ranking(emb, ranking, ridge)
    if isinstance(emb, TokenEmbeddings):
        return Selection.of(order, _replay(emb, order, ridge))
    first = np.cumsum(emb.lengths[order]) - emb.lengths[order]
    return Selection.of(order, np.add.reduceat(token_gains(emb, order, ridge), first))


def log_dets(
    emb: TokenSource,
    orders: Sequence[np.ndarray],
    ridge: float | int,
    *,
    on_progress: OnProgress | None = None,
) -> list[Float[np.ndarray, "n"]]:
    """f after each example of some sequences: the sums of `evaluate`'s gains, in less time.

    Args:
        emb: the pool.
        orders: sequences of at least one index of it, none twice.
        ridge: positive; V = ridge I before the first.
        on_progress: called with the number of sequences done.
    """
    curves = []
    with _as_needed(emb, ridge) as (emb, dtype):
        for done, order in enumerate(orders, start=1):
            gains = _replay_tokens(emb, order, ridge, dtype)
            last = np.cumsum(emb.lengths[order]) - 1
            curves.append(np.cumsum(gains, dtype=np.float64)[last])
            if on_progress is not None:
                on_progress(done)
    return curves


def token_gains(
    emb: PoolLike | TokenSource, ranking: Sequence[int] | np.ndarray, ridge: float | int
) -> Float[np.ndarray, "t"]:
    """What each token of a sequence of examples adds to the tokens before it, in nats.

    Token x adds `log(1 + x^T V^-1 x)`, V the ridge and all tokens before it, those of its own
    example too. Over an example the gains of its tokens add up to `evaluate`'s gain.

    Args:
        emb: the pool.
        ranking: indices of it; the t tokens are theirs, one example after the other.
        ridge: positive.

    Raises:
        ValueError: as `evaluate`.
    """
    emb = as_source(emb)
    order = _checked_ranking(emb, ranking, ridge)
    with _as_needed(emb, ridge) as (emb, dtype):
        return _replay_tokens(emb, order, ridge, dtype)


def remaining_gains(
    emb: PoolLike | TokenSource, ranking: Sequence[int] | np.ndarray, ridge: float | int = 1.0
) -> Float[np.ndarray, "N"]:
    """What each example would add to those of `ranking`, in nats; inf for the ranking's own.

    Args:
        emb: the pool.
        ranking: (n,) indices of it.
        ridge: positive; V = ridge I before the first.

    Raises:
        ValueError: as `evaluate`.
    """
    emb = as_source(emb)
    order = _checked_ranking(emb, ranking, ridge)
    with _as_needed(emb, ridge) as (emb, dtype):
        root = fresh_root(emb, order, ridge, dtype)
        if isinstance(emb, TokenEmbeddings) and fits(emb.lengths, emb.dim, dtype.itemsize):
            pool, shapes = make_pool(emb)
            gains = np.empty(len(emb), dtype)
            gains[np.asarray(pool.original)] = greedy.all_gains(pool, root, shapes)
        else:
            everything = Budget.of(emb, fraction=1)
            gains = Stream(emb, everything, np.ones(len(emb)), None, ridge, dtype).all_gains(root)
    gains[order] = np.inf
    return gains


@contextlib.contextmanager
def _as_needed(emb: TokenSource, ridge: float | int) -> Iterator[tuple[TokenSource, np.dtype]]:
    """A pool in its precision; one that is not in memory is read as it is needed."""
    if isinstance(emb, TokenEmbeddings):
        with computing(emb, ridge) as emb:
            yield emb, emb.dtype
    else:
        with in_precision(emb, ridge) as dtype:
            yield emb, dtype


def _checked_ranking(
    emb: TokenSource, ranking: Sequence[int] | np.ndarray, ridge: float | int
) -> np.ndarray:
    check_ridge(ridge)
    return checked_indices(emb, ranking, "ranking")


def checked_indices(emb: TokenSource, indices: Sequence[int] | np.ndarray, name: str) -> np.ndarray:
    """Places in a pool, each once.

    Raises:
        UserError: none, one outside the pool, or one that stands twice.
    """
    order = np.asarray(indices)
    if order.ndim != 1 or len(order) == 0 or not np.issubdtype(order.dtype, np.integer):
        raise UserError(
            f"{name} must be a list of at least one whole index, "
            f"got {order.dtype} of shape {order.shape}"
        )
    order = order.astype(np.int64)
    if order.min() < 0 or order.max() >= len(emb):
        raise UserError(f"{name} must stay within 0..{len(emb) - 1}, the pool's indices")
    if len(np.unique(order)) < len(order):
        raise UserError(f"{name} names an index twice; each example can be chosen once")
    return order


def _replay(emb: TokenEmbeddings, order: np.ndarray, ridge: float | int) -> np.ndarray:
    """Marginal gains along a sequence."""
    with computing(emb, ridge) as emb:
        pool, shapes = make_pool(emb)
        place = np.argsort(np.asarray(pool.original)).astype(np.int32)
        root, parts = greedy.first_root(emb.dim, ridge, pool.tokens.dtype), []
        for begin in range(0, len(order), REFRESH):
            if begin:
                root = fresh_root(emb, order[:begin], ridge, emb.dtype)
            positions = place[order[begin : begin + REFRESH]]
            padded = np.full(1 << (len(positions) - 1).bit_length(), -1, np.int32)
            padded[: len(positions)] = positions  # a few lengths, so a few compilations
            root, gains = greedy.replay(pool, root, jnp.asarray(padded), shapes)
            parts.append(np.asarray(gains)[: len(positions)])
    return np.concatenate(parts)


def _replay_tokens(
    emb: TokenSource, order: np.ndarray, ridge: float | int, dtype: np.dtype
) -> Float[np.ndarray, "T"]:
    """What each token of a sequence adds to the log-determinant.

    One shape serves all sequences and pools of a width, so little is compiled. Blocks have at most
    D tokens: the factor of more would lose digits where the ridge is small.
    """
    length = min(TOKENS_AT_ONCE, emb.dim)
    n_blocks = TOKENS_AT_ONCE // length
    step = n_blocks * length
    root, parts = greedy.first_root(emb.dim, ridge, dtype), []
    for some in _in_steps(emb, order, step):
        x = np.zeros((step, emb.dim), dtype)
        x[: len(some)] = some
        root, gains = greedy.replay_tokens(root, x.reshape(n_blocks, length, emb.dim))
        parts.append(np.ravel(gains))
    return np.concatenate(parts)[: int(emb.lengths[order].sum())]


def _in_steps(emb: TokenSource, order: np.ndarray, step: int) -> Iterator[Float[np.ndarray, "t D"]]:
    """The tokens of a sequence, `step` at a time; the last ones may be fewer."""
    left = np.empty((0, emb.dim), emb.dtype)
    for part in pieces(emb, order):
        x = np.concatenate([left, emb.read(part)])
        whole = len(x) - len(x) % step
        yield from np.split(x[:whole], np.arange(step, whole, step)) if whole else ()
        left = x[whole:]
    if len(left):
        yield left
