"""Select the examples that carry the most information: `select`."""

from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from fisher_jax.design import greedy
from fisher_jax.design.budget import Budget, Criterion
from fisher_jax.design.device_pool import first_room, make_pool
from fisher_jax.design.embeddings import (
    PoolLike,
    TokenEmbeddings,
    TokenSource,
    as_source,
    as_targets,
)
from fisher_jax.design.evaluation import checked_indices
from fisher_jax.design.fresh_root import REFRESH, fresh_root
from fisher_jax.design.greedy import Method
from fisher_jax.design.groups import Cap
from fisher_jax.design.precision import in_precision
from fisher_jax.design.ranking import Selection
from fisher_jax.design.streaming import Stream
from fisher_jax.util.checks import check_numbers, check_ridge
from fisher_jax.util.errors import UserError
from fisher_jax.util.progress import OnProgress

REPORTS = 100  # calls of on_progress over a selection


def select(
    emb: PoolLike | TokenSource,
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
    groups: Sequence | np.ndarray | None = None,
    group_cap: Cap | None = None,
    quality: Sequence | np.ndarray | None = None,
    quality_weight: float | int = 1.0,
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

    With `quality` the objective is `f(S) + quality_weight sum_{i in S} q_i`, in nats, which is
    monotone and submodular as f is, and the choice `argmax (gain_i + quality_weight q_i) / c_i`.
    With `groups` greedy has at least 1/2 of the best for a budget of examples, not 1 - 1/e. Lazy
    evaluation stays exact with both. `gains` and `log_det` are those of f alone.

    The precision is that of `emb.tokens`, except that outside
    1e-3 <= ridge / mean squared norm <= 1e3 all is computed in float64, whose gains are right to
    1e-7 + 2e-17 * mean squared norm / ridge relative; below 1e-14 that has too few digits as well.

    Args:
        emb: the pool; a matrix or a list of arrays also, see `as_embeddings`. A `TokenSource`, such
            as `StoredEmbeddings`, is read as it is needed and may be larger than memory: same rule
            and arithmetic. On a mesh each process reads what its own devices are to hold.
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
        groups: (N,) a label an example, such as its source; goes with `group_cap`. Initial rows
            take no room.
        group_cap: what is chosen of every group at most, in the budget's unit; by label, where
            others have no cap; or "equal" or "proportional" shares of the budget.
        quality: (N,) q_i of each example, at least 0.
        quality_weight: nats that a unit of quality is worth, at least 0.
        mesh: devices, along one axis, over which the pool is divided; default one device. Same
            ranking; each evaluates its own rows, and a choice costs their largest key and an
            all-gather of their best rows.
        pool_dtype: "bfloat16" holds embeddings on the device rounded to 8 bits, in half the memory;
            products stay float32. Gains are those of the rounded embeddings.
        on_progress: called now and then with the number chosen so far (with `token_budget`, with
            the cost spent so far).

    Raises:
        ValueError: no or several budgets, one that is out of range or buys nothing, a wrong
            ridge, method, criterion or costs; initial rows of another width or no such indices.
    """
    check_ridge(ridge)
    emb = as_source(emb)
    if method not in ("lazy", "naive"):
        raise UserError(f"method must be 'lazy' or 'naive', got {method!r}")
    if mesh is not None and len(mesh.axis_names) != 1:
        raise UserError(f"mesh must have one axis, got {mesh.axis_names}")
    if pool_dtype not in (None, "float32", "bfloat16"):
        raise UserError(f"pool_dtype must be 'float32' or 'bfloat16', got {pool_dtype!r}")
    if quality is None and quality_weight != 1:
        raise UserError(f"quality_weight={quality_weight} goes with quality: pass both, or neither")
    first = np.empty(0, np.int64)
    if len(initial_subset):
        first = checked_indices(emb, initial_subset, "initial_subset")
    budget = Budget.of(
        emb,
        n_samples=n_samples,
        fraction=fraction,
        token_budget=token_budget,
        costs=costs,
        groups=groups,
        group_cap=group_cap,
        owned=first,
    )
    per, there = budget.divisors(emb, criterion), []
    if initial is not None:
        there.append(as_targets(emb, initial, "initial").tokens)
    if len(first):
        there.append(emb.read(first))
    return greedily(
        emb,
        budget,
        per,
        ridge=ridge,
        bonus=None if quality is None else worth_of(len(emb), quality, quality_weight),
        there_TxD=np.concatenate(there) if there else None,
        method=method,
        mesh=mesh,
        pool_dtype=pool_dtype,
        on_progress=on_progress,
    )


def worth_of(n: int, quality: Sequence | np.ndarray, weight: float | int) -> Float[np.ndarray, "N"]:
    """Nats that the quality of each of n examples is worth.

    Raises:
        UserError: not a number of at least 0 for each, a weight that is none, or more in all than
            float32 holds.
    """
    check_numbers(quality_weight=weight)
    if not 0 <= weight < np.inf:
        raise UserError(f"quality_weight must be a finite number of at least 0, got {weight}")
    values = np.asarray(quality, np.float64)
    if values.shape != (n,):
        raise UserError(f"quality must be one number an example, {n}, got {values.shape}")
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if len(bad):
        raise UserError(
            f"quality must be at least 0, example {bad[0]} has {values[bad[0]]}: add a constant"
        )
    with np.errstate(over="ignore"):
        worth = float(weight) * values
        total = worth.sum()
    if total > np.finfo(np.float32).max:
        raise UserError(
            f"quality times quality_weight adds up to {total:.3g}, more than float32 holds: "
            "scale them down, to a few nats an example"
        )
    return worth


def greedily(
    emb: TokenSource,
    budget: Budget,
    per: np.ndarray,
    *,
    ridge: float | int,
    bonus: Float[np.ndarray, "N"] | None = None,
    there_TxD: Float[np.ndarray, "R D"] | None = None,
    method: Method = "lazy",
    mesh: Mesh | None = None,
    pool_dtype: str | None = None,
    on_progress: OnProgress | None = None,
) -> Selection:
    """`select` for a checked budget: by gain and `bonus` divided by `per` (N,), whatever it costs.

    `there_TxD` are tokens that V holds from the start.
    """
    if not isinstance(emb, TokenEmbeddings) and mesh is None:
        if method != "lazy" or pool_dtype is not None:
            raise UserError(
                "method='naive' and pool_dtype are for a pool in memory or on a mesh: pass its "
                "`in_memory()`"
            )
        return _streamed(emb, budget, per, bonus, ridge, there_TxD, on_progress)
    capacity = budget.most_examples
    stride = capacity if on_progress is None else max(1, capacity // REPORTS)
    count, refreshed = 0, 0
    total = budget.units[1]
    with in_precision(emb, ridge, budget) as dtype:
        pool, shapes = make_pool(emb, budget, per, bonus, mesh, dtype, pool_dtype)
        root = greedy.first_root(emb.dim, ridge, dtype)
        state = greedy.start(pool, root, first_room(budget), shapes)
        if there_TxD is not None:  # the first gains are bounds, evaluated before no choice
            root = fresh_root(emb, np.empty(0, np.int64), ridge, dtype, there_TxD)
            state = state._replace(root=root, stamp=state.stamp - 1)
        while count < capacity:
            until = min(capacity, count + stride, refreshed + REFRESH)
            state = greedy.advance(pool, state, until, shapes, method)
            count = int(state.chosen)
            if on_progress is not None:
                on_progress(int(total - state.room.all))
            if count < until:
                break  # nothing that is left fits
            if count == refreshed + REFRESH:
                chosen = np.asarray(state.ranking[:count])
                root = fresh_root(emb, chosen, ridge, dtype, there_TxD)
                state = state._replace(root=root)
                refreshed = count
        ranking = np.asarray(state.ranking[:count], np.int64)
        return Selection.of(ranking, np.asarray(state.gains[:count]))


def _streamed(
    source: TokenSource,
    budget: Budget,
    per: np.ndarray,
    bonus: np.ndarray | None,
    ridge: float | int,
    there_TxD: np.ndarray | None,
    on_progress: OnProgress | None,
) -> Selection:
    """`greedily` from a pool that is read as it is needed."""
    with in_precision(source, ridge, budget) as dtype:
        stream = Stream(source, budget, per, bonus, ridge, dtype)
        stream.start()
        if there_TxD is not None:
            nothing = np.empty(0, np.int64)
            stream.outdate(fresh_root(source, nothing, ridge, dtype, there_TxD))
        while (i := stream.choose()) is not None:
            stream.take(i)
            if on_progress is not None:
                on_progress(int(stream.spent))
            if len(stream.ranking) % REFRESH == 0:
                ranking = np.asarray(stream.ranking)
                stream.root = fresh_root(source, ranking, ridge, dtype, there_TxD)
        return Selection.of(np.asarray(stream.ranking, np.int64), np.asarray(stream.gains, dtype))
