"""Select the examples that carry the most information: `select`, `evaluate`."""

import contextlib
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from fisher_jax.design import greedy
from fisher_jax.design.budget import Budget, Criterion
from fisher_jax.design.device_pool import make_pool
from fisher_jax.design.embeddings import (
    PoolLike,
    TokenEmbeddings,
    as_embeddings,
    as_targets,
    check_squares,
)
from fisher_jax.design.greedy import Method
from fisher_jax.design.linalg import one_blas_thread
from fisher_jax.design.ranking import Selection
from fisher_jax.util.checks import LEAST_RIDGE, check_ridge
from fisher_jax.util.errors import UserError
from fisher_jax.util.platforms import here
from fisher_jax.util.progress import OnProgress

FLOAT32_RIDGES = (1e-3, 1e3)  # of the mean squared norm; outside, float32 gets picks wrong
REPORTS = 100  # calls of on_progress over a selection
_ROWS_AT_ONCE = 1 << 14
REFRESH = 8192  # choices between refreshes of the factor of V^-1; float32 drifts 2e-5 in 5,000
TOKENS_AT_ONCE = 128  # of a sequence that is only measured


def select(
    emb: PoolLike,
    *,
    n_samples: int | None = None,
    fraction: float | int | None = None,
    token_budget: float | int | None = None,
    costs: Sequence | np.ndarray | None = None,
    criterion: Criterion | None = None,
    ridge: float | int = 1.0,
    method: Method = "lazy",
    initial: PoolLike | None = None,
    initial_subset: Sequence[int] | np.ndarray = (),
    mesh: Mesh | None = None,
    pool_dtype: str | None = None,
    on_progress: OnProgress | None = None,
) -> Selection:
    """Greedy maximisation of `f(S) = log det(ridge I + sum_{i in S} X_i^T X_i) - D log ridge`.

    The rule of FisherSFT (arXiv 2505.14826). f is monotone and submodular, so for a budget of
    examples the greedy set has at least 1 - 1/e of the best possible f(S), and gains never rise
    along the ranking by more than rounding. Gains that differ by rounding alone (2e-6 relative in
    float32, 1e-12 in float64) are ties and go to the lowest index. Embeddings are taken as they
    are; divide them by their root mean squared norm (as `fisher_jax.embed` does) for a ridge that
    means the same for every model.

    With `token_budget` rows are taken by gain per cost, unless `criterion` says otherwise. A row
    that no longer fits is skipped and smaller ones go on being taken, so the budget is never
    exceeded. Lazy evaluation stays exact (old ratios bound new ones), but three things do not hold
    as above: gains may rise along the ranking, the rankings of two budgets need not be nested, and
    there is no 1 - 1/e.

    The precision is that of `emb.tokens`, except that outside
    1e-3 <= ridge / mean squared norm <= 1e3 all is computed in float64; below 1e-14 that has too
    few digits as well.

    Args:
        emb: the pool; a matrix or a list of arrays also, see `as_embeddings`.
        n_samples: a number of examples; of this and the next two exactly one is needed.
        fraction: a share F of the pool, above 0 and at most 1: floor(F N + 0.5) examples, at
            least 1.
        token_budget: a total cost, never exceeded.
        costs: (N,) positive costs for `token_budget`; default M_i, each row's tokens.
        criterion: "gain" takes the row of the largest gain, "gain_per_cost" that of the largest
            gain divided by its cost, or by M_i where examples are counted. Default: "gain" for
            `n_samples` and `fraction`, "gain_per_cost" for `token_budget`.
        ridge: positive, at least 1e-14 mean squared norms; V = ridge I before the first choice.
        method: "lazy" (Algorithm 2: gains only fall, so old ones are bounds) or "naive"
            (Algorithm 1: every candidate at each step). Same ranking, same gains.
        initial: rows that are there already, embedded as the pool is. V holds them from the start
            and f counts from there; they cost nothing.
        initial_subset: indices of the pool that are there already: the same, and they are not
            chosen again. A ranking goes on by its own first part.
        mesh: devices, along one axis, over which the pool is divided; default one device. Same
            ranking; each evaluates its own rows, and a choice sends one row's tokens to all.
        pool_dtype: "bfloat16" holds embeddings on the device rounded to 8 bits, in half the memory;
            products stay float32. Gains are those of the rounded embeddings.
        on_progress: called now and then with the number chosen so far (with `token_budget`, with
            the cost spent so far).

    Raises:
        ValueError: no or several budgets, one that is out of range or buys nothing, a wrong
            ridge, method, criterion or costs; initial rows of another width or no such indices.
    """
    check_ridge(ridge)
    emb = as_embeddings(emb)
    if method not in ("lazy", "naive"):
        raise UserError(f"method must be 'lazy' or 'naive', got {method!r}")
    if mesh is not None and len(mesh.axis_names) != 1:
        raise UserError(f"mesh must have one axis, got {mesh.axis_names}")
    if pool_dtype not in (None, "float32", "bfloat16"):
        raise UserError(f"pool_dtype must be 'float32' or 'bfloat16', got {pool_dtype!r}")
    budget = Budget.of(
        emb, n_samples=n_samples, fraction=fraction, token_budget=token_budget, costs=costs
    )
    per, there = budget.divisors(emb, criterion), []
    if initial is not None:
        there.append(as_targets(emb, initial, "initial").tokens)
    if len(initial_subset):
        first = _checked_indices(emb, initial_subset, "initial_subset")
        budget = budget.without(first)
        there.append(emb.tokens[_token_rows(emb, first)])
    return greedily(
        emb,
        budget,
        per,
        ridge=ridge,
        there_TxD=np.concatenate(there) if there else None,
        method=method,
        mesh=mesh,
        pool_dtype=pool_dtype,
        on_progress=on_progress,
    )


def greedily(
    emb: TokenEmbeddings,
    budget: Budget,
    per: np.ndarray,
    *,
    ridge: float | int,
    there_TxD: Float[np.ndarray, "R D"] | None = None,
    method: Method = "lazy",
    mesh: Mesh | None = None,
    pool_dtype: str | None = None,
    on_progress: OnProgress | None = None,
) -> Selection:
    """`select` for a checked budget: by gain divided by `per` (N,), whatever a row costs.

    `there_TxD` are tokens that V holds from the start.
    """
    capacity = budget.most_examples
    stride = capacity if on_progress is None else max(1, capacity // REPORTS)
    count, refreshed = 0, 0
    costs, total = budget.units
    with computing(emb, ridge, budget) as emb:
        pool, shapes = make_pool(emb, costs, per, mesh, pool_dtype)
        root = greedy.first_root(emb.dim, ridge, emb.tokens.dtype)
        state = greedy.start(pool, root, total, shapes)
        if there_TxD is not None:  # the first gains are bounds, evaluated before no choice
            root = _fresh_root(emb, np.empty(0, np.int64), ridge, there_TxD)
            state = state._replace(root=root, stamp=state.stamp - 1)
        while count < capacity:
            until = min(capacity, count + stride, refreshed + REFRESH)
            state = greedy.advance(pool, state, until, shapes, method)
            count = int(state.chosen)
            if on_progress is not None:
                on_progress(int(total - state.remaining))
            if count < until:
                break  # nothing that is left fits
            if count == refreshed + REFRESH:
                state = state._replace(
                    root=_fresh_root(emb, np.asarray(state.ranking[:count]), ridge, there_TxD)
                )
                refreshed = count
        ranking = np.asarray(state.ranking[:count], np.int64)
        return _selection(ranking, np.asarray(state.gains[:count]))


def evaluate(
    emb: PoolLike, ranking: Sequence[int] | np.ndarray, ridge: float | int = 1.0
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
    emb = as_embeddings(emb)
    order = _checked_ranking(emb, ranking, ridge)
    return _selection(order, _replay(emb, order, ridge))


def log_dets(
    emb: TokenEmbeddings,
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
    with computing(emb, ridge) as emb:
        for done, order in enumerate(orders, start=1):
            gains = _replay_tokens(emb, order, ridge)
            last = np.cumsum(emb.lengths[order]) - 1
            curves.append(np.cumsum(gains, dtype=np.float64)[last])
            if on_progress is not None:
                on_progress(done)
    return curves


def remaining_gains(
    emb: PoolLike, ranking: Sequence[int] | np.ndarray, ridge: float | int = 1.0
) -> Float[np.ndarray, "N"]:
    """What each example would add to those of `ranking`, in nats; inf for the ranking's own.

    Args:
        emb: the pool.
        ranking: (n,) indices of it.
        ridge: positive; V = ridge I before the first.

    Raises:
        ValueError: as `evaluate`.
    """
    emb = as_embeddings(emb)
    order = _checked_ranking(emb, ranking, ridge)
    with computing(emb, ridge) as emb:
        pool, shapes = make_pool(emb)
        gains = np.empty(len(emb), emb.tokens.dtype)
        root = _fresh_root(emb, order, ridge)
        gains[np.asarray(pool.original)] = greedy.all_gains(pool, root, shapes)
    gains[order] = np.inf
    return gains


@contextlib.contextmanager
def computing(
    emb: TokenEmbeddings, ridge: float | int, budget: Budget | None = None
) -> Iterator[TokenEmbeddings]:
    """Precision and threads for a selection.

    float64 exists where embeddings are such, for ridges out of float32's reach, and for costs that
    are no whole numbers.

    Raises:
        ValueError: a ridge below float64's reach, or float64 on a TPU, which has none.
    """
    device = here().name  # which refuses a forked process, before any work
    scale = emb.mean_squared_norm()
    check_squares(scale)
    if ridge < LEAST_RIDGE * scale:
        raise UserError(
            f"ridge must be at least {LEAST_RIDGE:g} of the mean squared norm of the embeddings, "
            f"{scale:.3g}, got {ridge}: below it gains are lost to rounding"
        )
    low, high = FLOAT32_RIDGES
    if scale > 0 and not low <= ridge / scale <= high and emb.tokens.dtype != np.float64:
        emb = TokenEmbeddings(emb.tokens.astype(np.float64), emb.offsets)
    is_wide = emb.tokens.dtype == np.float64
    needs_float64 = is_wide or not (budget is None or budget.is_whole)
    if needs_float64 and device == "tpu":
        raise UserError(
            "a TPU has no float64: pass float32 embeddings with a ridge from 1e-3 to 1e3 of their "
            f"mean squared norm, {scale:.3g}, and whole costs, or set JAX_PLATFORMS=cpu"
        )
    with jax.enable_x64(needs_float64), one_blas_thread():
        yield emb


def _selection(ranking: np.ndarray, gains: np.ndarray) -> Selection:
    return Selection(ranking, gains, float(np.sum(gains, dtype=np.float64)))


def _checked_ranking(
    emb: TokenEmbeddings, ranking: Sequence[int] | np.ndarray, ridge: float | int
) -> np.ndarray:
    check_ridge(ridge)
    return _checked_indices(emb, ranking, "ranking")


def _checked_indices(
    emb: TokenEmbeddings, indices: Sequence[int] | np.ndarray, name: str
) -> np.ndarray:
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
                root = _fresh_root(emb, order[:begin], ridge)
            positions = place[order[begin : begin + REFRESH]]
            padded = np.full(1 << (len(positions) - 1).bit_length(), -1, np.int32)
            padded[: len(positions)] = positions  # a few lengths, so a few compilations
            root, gains = greedy.replay(pool, root, jnp.asarray(padded), shapes)
            parts.append(np.asarray(gains)[: len(positions)])
    return np.concatenate(parts)


def _replay_tokens(
    emb: TokenEmbeddings, order: np.ndarray, ridge: float | int
) -> Float[np.ndarray, "T"]:
    """What each token of a sequence adds to the log-determinant.

    One shape serves all sequences and pools of a width, so little is compiled. Blocks have at most
    D tokens: the factor of more would lose digits where the ridge is small.
    """
    rows = _token_rows(emb, order)
    length = min(TOKENS_AT_ONCE, emb.dim)
    n_blocks = TOKENS_AT_ONCE // length
    step = n_blocks * length
    root, parts = greedy.first_root(emb.dim, ridge, emb.tokens.dtype), []
    for begin in range(0, len(rows), step):
        x = np.zeros((step, emb.dim), emb.tokens.dtype)
        some = rows[begin : begin + step]
        x[: len(some)] = emb.tokens[some]
        root, gains = greedy.replay_tokens(root, x.reshape(n_blocks, length, emb.dim))
        parts.append(np.ravel(gains))
    return np.concatenate(parts)[: len(rows)]


def _token_rows(emb: TokenEmbeddings, order: np.ndarray) -> Int[np.ndarray, "T"]:
    """Where the tokens of some examples stand in `emb.tokens`."""
    ends = np.cumsum(emb.lengths[order])
    first = emb.offsets[order] - ends + emb.lengths[order]
    return np.repeat(first, emb.lengths[order]) + np.arange(ends[-1])


def _fresh_root(
    emb: TokenEmbeddings,
    chosen: np.ndarray,
    ridge: float | int,
    there_TxD: np.ndarray | None = None,
) -> jax.Array:
    """W with W W^T = V^-1, anew from the chosen rows and in float64."""
    information = ridge * np.eye(emb.dim)

    def add(tokens_TxD: np.ndarray, rows: np.ndarray) -> None:
        for begin in range(0, len(rows), _ROWS_AT_ONCE):
            x = tokens_TxD[rows[begin : begin + _ROWS_AT_ONCE]].astype(np.float64)
            np.add(information, x.T @ x, out=information)

    if there_TxD is not None:
        add(there_TxD, np.arange(len(there_TxD)))
    if len(chosen):
        add(emb.tokens, _token_rows(emb, chosen))
    factor = np.linalg.cholesky(information)
    return jnp.asarray(np.linalg.inv(factor).T, emb.tokens.dtype)
