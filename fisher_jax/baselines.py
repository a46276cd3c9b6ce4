"""The other selectors, one call signature: `SELECTORS[name](emb, n_samples=..., seed=...)`.

Every selector returns a `Selection` whose gains are the information gains of its own sequence, so
that curves compare. With `token_budget` rows are taken in the selector's order; one that no longer
fits is skipped and smaller ones go on being taken.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from fisher_jax.budget import Budget, Purse
from fisher_jax.density import kernel_density
from fisher_jax.design import TokenEmbeddings, check_targets
from fisher_jax.prediction_variance import least_variance
from fisher_jax.randomized import draw_fisher
from fisher_jax.selection import Selection, check_ridge, evaluate, greedily
from fisher_jax.softmax_model import information_rows

Pooling = Literal["mean", "last"]
Ranking = Int[np.ndarray, "n"]
OnProgress = Callable[[int], None] | None


class Selector:
    """A rule with one call signature; see `SELECTORS`.

    A rule gives a ranking, or a whole `Selection` where it knows the gains already.

    Attributes:
        name: its key in `SELECTORS`.
        options: the rule's own named arguments.
        needs: those without a default, what the rule needs beside embeddings.
    """

    def __init__(self, name: str, rule: Callable[..., Ranking | Selection]) -> None:
        self.name = name
        self._rule = rule
        parameters = list(inspect.signature(rule).parameters.values())[2:]
        own = [p for p in parameters if p.name not in ("seed", "ridge", "on_progress")]
        self._takes = [p.name for p in parameters]
        self.options = [p.name for p in own]
        self.needs = [p.name for p in own if p.default is p.empty]
        functools.update_wrapper(self, rule)

    def __call__(
        self,
        emb: TokenEmbeddings,
        *,
        n_samples: int | None = None,
        fraction: float | int | None = None,
        token_budget: float | int | None = None,
        costs: Sequence | np.ndarray | None = None,
        ridge: float | int = 1.0,
        seed: int = 0,
        on_progress: OnProgress = None,
        **options: object,
    ) -> Selection:
        """Choose rows of `emb`; exactly one budget and `on_progress` as for `fisher_jax.select`.

        Only rules that take long a choice call `on_progress`.

        Raises:
            ValueError: as `select`; an argument that this selector needs is missing, or one that
                it doesn't know.
        """
        budget = Budget.of(
            emb, n_samples=n_samples, fraction=fraction, token_budget=token_budget, costs=costs
        )
        common = {"ridge": ridge, "seed": seed, "on_progress": on_progress}
        chosen = self._choose(emb, budget, common, options)
        return chosen if isinstance(chosen, Selection) else evaluate(emb, chosen, ridge)

    def rank(
        self,
        emb: TokenEmbeddings,
        budget: Budget,
        *,
        ridge: float | int = 1.0,
        seed: int = 0,
        **options: object,
    ) -> Ranking:
        """The ranking alone, without the information gains."""
        chosen = self._choose(emb, budget, {"ridge": ridge, "seed": seed}, options)
        return chosen.ranking if isinstance(chosen, Selection) else chosen

    def _choose(
        self, emb: TokenEmbeddings, budget: Budget, common: dict, options: dict
    ) -> Ranking | Selection:
        check_ridge(common["ridge"])
        missing = [n for n in self.needs if options.get(n) is None]
        if missing:
            raise ValueError(f"selector {self.name!r} needs {missing[0]}= beside the embeddings")
        unknown = [n for n in options if n not in self.options]
        if unknown:
            raise ValueError(
                f"selector {self.name!r} has no argument {unknown[0]!r}; "
                f"it has {', '.join(self.options) or 'none'}"
            )
        if options.get("targets") is not None:
            check_targets(emb, options["targets"])
        given = common | options
        return self._rule(emb, budget, **{k: v for k, v in given.items() if k in self._takes})


def uniform(emb: TokenEmbeddings, budget: Budget, *, seed: int) -> Ranking:
    """Rows in random order: what every other selector must beat."""
    return take(budget, np.random.default_rng(seed).permutation(len(emb)))


def longest(emb: TokenEmbeddings, budget: Budget) -> Ranking:
    """Rows by their number of tokens, most first: the length part of a criterion alone."""
    return take(budget, np.argsort(-emb.lengths, kind="stable"))


def fisher(
    emb: TokenEmbeddings, budget: Budget, *, ridge: float | int, on_progress: OnProgress = None
) -> Selection:
    """FisherSFT: the largest information gain at each step, whatever a row costs.

    `argmax_i log det(I + X_i V^-1 X_i^T)` (arXiv 2505.14826, Algorithm 2). With a token budget
    this is the paper's criterion until nothing fits, where `fisher_jax.select` goes by gain per
    token; that one is `fisher_per_token`.
    """
    return greedily(emb, budget, np.ones(len(emb)), ridge=ridge, on_progress=on_progress)


def fisher_per_token(
    emb: TokenEmbeddings,
    budget: Budget,
    *,
    ridge: float | int,
    power: float | int = 1,
    on_progress: OnProgress = None,
) -> Selection:
    """D-optimal per token: the largest `log det(I + X_i V^-1 X_i^T) / M_i` at each step.

    Args:
        power: of M_i. Gains grow more slowly than lengths, so 1 prefers short rows and 0 long
            ones.

    Raises:
        ValueError: a power that is not finite.
    """
    per = _per_token(emb, budget, power)
    return greedily(emb, budget, per, ridge=ridge, on_progress=on_progress)


def fisher_mixed(
    emb: TokenEmbeddings,
    budget: Budget,
    *,
    ridge: float | int,
    seed: int,
    share: float = 0.5,
    on_progress: OnProgress = None,
) -> Ranking:
    """`fisher` for a `share` of the budget, then uniform rows: dampens selection bias."""
    part = budget._replace(total=max(budget.costs.min(), share * budget.total))
    first = fisher(emb, part, ridge=ridge, on_progress=on_progress).ranking
    order = np.random.default_rng(seed).permutation(len(emb))
    return take(budget, np.concatenate([first, order[~np.isin(order, first)]]))


def fisher_random(
    emb: TokenEmbeddings,
    budget: Budget,
    *,
    ridge: float | int,
    seed: int,
    epsilon: float = 0.5,
) -> Ranking:
    """A random draw from an approximately D-optimal design; `randomized.draw_fisher` says how.

    That function also returns the weights which make a weighted fit unbiased.
    """
    return draw_fisher(emb, budget, ridge=ridge, seed=seed, epsilon=epsilon).ranking


def i_optimal(
    emb: TokenEmbeddings,
    budget: Budget,
    *,
    ridge: float | int,
    targets: TokenEmbeddings | None = None,
    on_progress: OnProgress = None,
) -> Ranking:
    """The largest fall of the mean prediction variance `tr(V^-1 Sigma)` at each step.

    Args:
        targets: rows of the task, whose tokens' mean x x^T is Sigma; default the pool itself.
    """
    per = np.ones(len(emb))
    return least_variance(emb, budget, per, ridge=ridge, targets=targets, on_progress=on_progress)


def i_optimal_per_token(
    emb: TokenEmbeddings,
    budget: Budget,
    *,
    ridge: float | int,
    targets: TokenEmbeddings | None = None,
    power: float | int = 1,
    on_progress: OnProgress = None,
) -> Ranking:
    """`i_optimal`, the fall divided by the row's tokens; `power` as in `fisher_per_token`."""
    per = _per_token(emb, budget, power)
    return least_variance(emb, budget, per, ridge=ridge, targets=targets, on_progress=on_progress)


def sentence_od(
    emb: TokenEmbeddings,
    budget: Budget,
    *,
    ridge: float | int,
    pooling: Pooling = "mean",
    on_progress: OnProgress = None,
) -> Ranking:
    """The same D-optimal design on one pooled vector a row, SentenceOD of FisherSFT's Section 5.

    The paper does not say how a sentence is pooled; `pooling` is "mean" or "last" (token).
    """
    pooled = TokenEmbeddings(_pooled(emb, pooling), np.arange(len(emb) + 1))
    per = np.ones(len(emb))
    return greedily(pooled, budget, per, ridge=ridge, on_progress=on_progress).ranking


def exact_information(
    emb: TokenEmbeddings,
    budget: Budget,
    *,
    ridge: float | int,
    theta: Float[np.ndarray, "D L"],
    on_progress: OnProgress = None,
) -> Ranking:
    """Greedy on `log det(ridge I + H_S)`, H_S the exact (reduced) information at `theta`.

    `H_S = sum (diag(p) - p p^T) kron x x^T` (FisherSFT, Section 3) without its null direction.
    A row of M tokens becomes M L rows of width D (L - 1): for small problems.
    """
    theta = np.asarray(theta)
    if theta.ndim != 2 or theta.shape[0] != emb.dim:
        raise ValueError(f"theta must be (D, L) with D = {emb.dim}, got shape {theta.shape}")
    lifted = TokenEmbeddings(information_rows(theta, emb.tokens), emb.offsets * theta.shape[1])
    per = np.ones(len(emb))
    return greedily(lifted, budget, per, ridge=ridge, on_progress=on_progress).ranking


def density(
    emb: TokenEmbeddings,
    budget: Budget,
    *,
    seed: int,
    pooling: Pooling = "mean",
    bandwidth: float = 1.0,
    n_hashes: int = 1000,
    n_buckets: int = 20_000,
) -> Ranking:
    """DensitySampling: inverse-propensity sampling by kernel density (arXiv 2402.09668).

    Rows are drawn without replacement with probability proportional to 1 / density, the density
    from `kernel_density`. The source pools by its own encoder; here `pooling` of the embeddings.
    """
    values = kernel_density(
        _pooled(emb, pooling), seed, bandwidth=bandwidth, n_hashes=n_hashes, n_buckets=n_buckets
    )
    return take(budget, _weighted_order(1 / values, seed))


def sensitivity(
    emb: TokenEmbeddings,
    budget: Budget,
    *,
    seed: int,
    losses: Float[np.ndarray, "N"],
    n_clusters: int | None = None,
    scale: float = 1.0,
    pooling: Pooling = "mean",
) -> Ranking:
    """Clustering-based sensitivity sampling (Axiotis et al., arXiv 2402.17327), z = 2.

    `s(e) = loss(c_e) + Lambda |e - c_e|^2`, c_e the row nearest to e's k-means centre, drawn with
    p = s / sum s. Lambda is `scale` times mean loss / mean squared distance (the source takes a
    Hoelder constant). The source draws with replacement and weights 1 / (m p); a selection has
    neither, so rows are drawn without replacement.

    Args:
        losses: each row's mean loss under the model; only those of the centres are used.
        n_clusters: default: the square root of N.
    """
    losses = np.asarray(losses, np.float64)
    if losses.shape != (len(emb),) or not np.isfinite(losses).all() or losses.min() < 0:
        raise ValueError(f"losses must be {len(emb)} finite numbers of at least 0, one a row")
    points = _pooled(emb, pooling)
    squared, cluster = _to_centres(points, n_clusters, seed)
    order = np.lexsort((squared, cluster))
    first = order[np.unique(cluster[order], return_index=True)[1]]
    of_centre = losses[first[np.searchsorted(cluster[first], cluster)]]
    weight = scale * of_centre.mean() / max(squared.mean(), 1e-30)
    return take(budget, _weighted_order(of_centre + weight * squared + 1e-30, seed))


def prototypes_easy(
    emb: TokenEmbeddings,
    budget: Budget,
    *,
    seed: int,
    n_clusters: int | None = None,
    pooling: Pooling = "mean",
) -> Ranking:
    """Rows nearest to their k-means centre first (Sorscher et al. 2022: for scarce data).

    The source clusters a self-supervised encoder's embeddings; here `pooling` of the model's.
    `n_clusters` defaults to the square root of N.
    """
    squared, _ = _to_centres(_pooled(emb, pooling), n_clusters, seed)
    return take(budget, np.argsort(squared, kind="stable"))


def prototypes_hard(
    emb: TokenEmbeddings,
    budget: Budget,
    *,
    seed: int,
    n_clusters: int | None = None,
    pooling: Pooling = "mean",
) -> Ranking:
    """Rows farthest from their k-means centre first (Sorscher et al. 2022: for abundant data)."""
    squared, _ = _to_centres(_pooled(emb, pooling), n_clusters, seed)
    return take(budget, np.argsort(-squared, kind="stable"))


def k_center(
    emb: TokenEmbeddings, budget: Budget, *, seed: int, pooling: Pooling = "mean"
) -> Ranking:
    """Greedy k-center (Sener & Savarese 2018): the row farthest from all chosen ones.

    `argmax_i min_{j in S} |e_i - e_j|` on pooled embeddings; the first row is drawn at random.
    """
    points = _pooled(emb, pooling)
    norms = np.einsum("nd,nd->n", points, points)
    rng = np.random.default_rng(seed)

    def to(i: int) -> np.ndarray:
        return np.maximum(norms + norms[i] - 2 * points @ points[i], 0)

    return _farthest(budget, rng.permutation(len(points)), to, lambda far: int(np.argmax(far)))


def badge(emb: TokenEmbeddings, budget: Budget, *, seed: int, probabilities: Any) -> Ranking:
    """BADGE (Ash et al. 2020): k-means++ draws on gradients of the last layer.

    A token's gradient at its most likely label is `(p - 1_yhat) kron x`; a row's is the mean over
    its tokens (the source has one label an example). The first is the largest, then D^2 sampling.
    Gradients are never formed: `<g_i, g_k> = mean_{j,l} (a_j . a_l)(x_j . x_l)`, a = p - 1_yhat.

    Args:
        probabilities: (T, L), an array or a sparse one that keeps each token's most likely
            labels. Cutting p to k of them changes |a|^2 by at most 1 / (4 k), see
            `scores.top_probabilities`.
    """
    from scipy.sparse import csr_array  # takes a moment to import

    x, starts, lengths = emb.tokens, emb.offsets[:-1], emb.lengths
    p: Any = csr_array(probabilities, dtype=x.dtype)
    if p.ndim != 2 or p.shape[0] != len(x):
        raise ValueError(f"probabilities must be (T, L) with T = {len(x)}, got shape {p.shape}")
    likeliest = (np.arange(len(x)), p.argmax(axis=1))
    a = p - csr_array((np.ones(len(x), x.dtype), likeliest), shape=p.shape)

    def means_with(i: int, rows: slice) -> np.ndarray:
        """`mean_l (a_j . a_l)(x_j . x_l)` over the tokens l of row i, for each j of `rows`."""
        own = slice(emb.offsets[i], emb.offsets[i + 1])
        return np.mean((a[rows] @ a[own].T.toarray()) * (x[rows] @ x[own].T), axis=1)

    norms = np.array([np.mean(means_with(i, own)) for i, own in enumerate(_slices(emb))])
    rng = np.random.default_rng(seed)

    def to(i: int) -> np.ndarray:
        inner = np.add.reduceat(means_with(i, slice(0, len(x))), starts) / lengths
        return np.maximum(norms + norms[i] - 2 * inner, 0)

    def draw(far: np.ndarray) -> int:
        return int(rng.choice(len(far), p=far / far.sum()))

    return _farthest(budget, np.argsort(-norms, kind="stable"), to, draw)


def _slices(emb: TokenEmbeddings) -> list[slice]:
    return [slice(a, b) for a, b in zip(emb.offsets[:-1], emb.offsets[1:], strict=True)]


def _per_token(emb: TokenEmbeddings, budget: Budget, power: float | int) -> np.ndarray:
    """What a gain is divided by: the costs that are paid, or tokens where examples are counted."""
    if not np.isfinite(power):
        raise ValueError(f"power must be a finite number, got {power}")
    return (budget.costs if np.ptp(budget.costs) else emb.lengths.astype(np.float64)) ** power


def take(budget: Budget, order: np.ndarray) -> Ranking:
    """The rows of an order that still fit when their turn comes."""
    if np.ptp(budget.costs) == 0:
        return order[: int(budget.total // budget.costs[0])]
    remaining, cheapest, taken = budget.total, budget.costs.min(), []
    for i in order:
        if budget.costs[i] <= remaining:
            taken.append(i)
            remaining -= budget.costs[i]
        elif remaining < cheapest:
            break
    return np.asarray(taken, np.int64)


def _farthest(
    budget: Budget,
    first: np.ndarray,
    distances_to: Callable[[int], np.ndarray],
    choose: Callable[[np.ndarray], int],
) -> Ranking:
    """Rows chosen by their squared distance to the nearest chosen one; `first` orders starts."""
    purse, nearest = Purse(budget), np.full(len(first), np.inf)
    i = int(first[purse.is_open[first]][0])
    while True:
        purse.buy(i)
        if not purse.is_open.any():
            return purse.ranking
        nearest = np.minimum(nearest, distances_to(i))
        far = np.where(purse.is_open, nearest, 0).astype(np.float64)
        i = choose(far) if far.max() > 0 else int(np.argmax(purse.is_open))


def _pooled(emb: TokenEmbeddings, pooling: Pooling) -> Float[np.ndarray, "N D"]:
    if pooling == "mean":
        return np.add.reduceat(emb.tokens, emb.offsets[:-1]) / emb.lengths[:, None].astype(
            emb.tokens.dtype
        )
    if pooling == "last":
        return emb.tokens[emb.offsets[1:] - 1]
    raise ValueError(f"pooling must be 'mean' or 'last', got {pooling!r}")


def _weighted_order(weights: np.ndarray, seed: int) -> np.ndarray:
    """Drawn without replacement, p proportional to the weights (Efraimidis & Spirakis 2006)."""
    waiting = np.random.default_rng((seed, 1)).exponential(size=len(weights)) / weights
    return np.argsort(waiting, kind="stable")


def _to_centres(
    points: np.ndarray, n_clusters: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Squared distance of each point to its k-means centre, and which one that is."""
    from sklearn.cluster import KMeans  # takes a second to import

    distinct = len(np.unique(points, axis=0))
    k = round(np.sqrt(len(points))) if n_clusters is None else n_clusters
    if not 1 <= k <= len(points):
        raise ValueError(f"n_clusters must be from 1 to {len(points)}, the pool's size, got {k}")
    means = KMeans(min(k, distinct), n_init=1, random_state=seed)  # pyright: ignore
    cluster = np.asarray(means.fit_predict(points))
    return np.sum((points - means.cluster_centers_[cluster]) ** 2, axis=1), cluster


SELECTORS: dict[str, Selector] = {
    rule.__name__: Selector(rule.__name__, rule)
    for rule in (
        uniform,
        longest,
        fisher,
        fisher_per_token,
        fisher_mixed,
        fisher_random,
        i_optimal,
        i_optimal_per_token,
        sentence_od,
        density,
        sensitivity,
        prototypes_easy,
        prototypes_hard,
        k_center,
        badge,
        exact_information,
    )
}
