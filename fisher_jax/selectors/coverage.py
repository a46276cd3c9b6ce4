"""Selectors that cover the pool: by density, by clusters, by distance."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from fisher_jax.design import Budget, Pooling, Purse, Ranking, TokenEmbeddings, take
from fisher_jax.selectors.density import kernel_density
from fisher_jax.selectors.registry import Terms, rule
from fisher_jax.util.errors import UserError
from fisher_jax.util.streams import stream


@rule(
    "rows of sparse regions of the pool, drawn",
    aim="spread",
)
def density(
    emb: TokenEmbeddings,
    budget: Budget,
    terms: Terms,
    *,
    pooling: Pooling = "mean",
    bandwidth: float = 1.0,
    n_joined: int = 4,
    n_hashes: int = 1000,
    n_buckets: int = 20_000,
) -> Ranking:
    """DensitySampling: inverse-propensity sampling by kernel density (arXiv 2402.09668).

    Rows are drawn without replacement with probability proportional to 1 / density, the density
    from `kernel_density`, which says how wide its kernel is. The source pools by its own encoder;
    here `pooling` of the embeddings.
    """
    values = kernel_density(
        emb.pooled(pooling),
        terms.seed,
        bandwidth=bandwidth,
        n_joined=n_joined,
        n_hashes=n_hashes,
        n_buckets=n_buckets,
    )
    return take(budget, _weighted_order(1 / values, stream(terms.seed, "density")))


@rule(
    "rows far from their cluster's centre, or of clusters that the model finds hard, drawn",
    aim="spread",
    needs=("losses",),
    by_label=True,
)
def sensitivity(
    emb: TokenEmbeddings,
    budget: Budget,
    terms: Terms,
    *,
    losses: Float[np.ndarray, "N"],
    n_clusters: int | None = None,
    scale: float = 1.0,
    pooling: Pooling = "mean",
) -> Ranking:
    """Clustering-based sensitivity sampling (Axiotis et al., arXiv 2402.17327), z = 2.

    `s(e) = loss(c_e) + Lambda |e - c_e|^2`, c_e the row nearest to e's k-means centre, drawn with
    p = s / sum s. Lambda is `scale` times mean loss / mean squared distance (the source takes a
    Hoelder constant). The source draws with replacement and weights 1 / (m p). A selection has no
    row twice and no weights: rows are drawn without replacement, which has the law of the source's
    draws in the order of their first appearance.

    Args:
        losses: each row's mean loss under the model; only those of the centres are used.
        n_clusters: default: the square root of N.
    """
    losses = np.asarray(losses, np.float64)
    if losses.shape != (len(emb),) or not np.isfinite(losses).all() or losses.min() < 0:
        raise UserError(f"losses must be {len(emb)} finite numbers of at least 0, one a row")
    points, rng = emb.pooled(pooling), stream(terms.seed, "sensitivity")
    squared, cluster = _to_centres(points, n_clusters, rng)
    order = np.lexsort((squared, cluster))
    first = order[np.unique(cluster[order], return_index=True)[1]]
    of_centre = losses[first[np.searchsorted(cluster[first], cluster)]]
    weight = scale * of_centre.mean() / max(squared.mean(), 1e-30)
    return take(budget, _weighted_order(of_centre + weight * squared + 1e-30, rng))


@rule("rows near their cluster's centre", aim="spread")
def prototypes_easy(
    emb: TokenEmbeddings,
    budget: Budget,
    terms: Terms,
    *,
    n_clusters: int | None = None,
    pooling: Pooling = "mean",
) -> Ranking:
    """Rows nearest to their k-means centre first (Sorscher et al. 2022: for scarce data).

    By `min_k |e_i - c_k|^2`, ascending, e the pooled embeddings, c their k-means centres. The
    source clusters a self-supervised encoder's embeddings; here `pooling` of the model's.
    `n_clusters` defaults to the square root of N.
    """
    squared, _ = _to_centres(emb.pooled(pooling), n_clusters, stream(terms.seed, "prototypes_easy"))
    return take(budget, np.argsort(squared, kind="stable"))


@rule("rows far from their cluster's centre", aim="spread")
def prototypes_hard(
    emb: TokenEmbeddings,
    budget: Budget,
    terms: Terms,
    *,
    n_clusters: int | None = None,
    pooling: Pooling = "mean",
) -> Ranking:
    """Rows farthest from their k-means centre first (Sorscher et al. 2022: for abundant data).

    By `min_k |e_i - c_k|^2`, descending; the rest as in `prototypes_easy`.
    """
    squared, _ = _to_centres(emb.pooled(pooling), n_clusters, stream(terms.seed, "prototypes_hard"))
    return take(budget, np.argsort(-squared, kind="stable"))


@rule("rows far from all that are chosen", aim="spread")
def k_center(
    emb: TokenEmbeddings, budget: Budget, terms: Terms, *, pooling: Pooling = "mean"
) -> Ranking:
    """Greedy k-center (Sener & Savarese 2018): the row farthest from all chosen ones.

    `argmax_i min_{j in S} |e_i - e_j|` on pooled embeddings; the first row is drawn at random.
    """
    points = emb.pooled(pooling)
    norms = np.einsum("nd,nd->n", points, points)
    rng = stream(terms.seed, "k_center")

    def to(i: int) -> np.ndarray:
        return np.maximum(norms + norms[i] - 2 * (points @ points[i]), 0)

    return _farthest(budget, rng.permutation(len(points)), to, lambda far: int(np.argmax(far)))


@rule("rows of large and different gradients, drawn", aim="spread", needs=("probabilities",))
def badge(
    emb: TokenEmbeddings,
    budget: Budget,
    terms: Terms,
    *,
    probabilities: Any,
    pooling: Pooling = "mean",
) -> Ranking:
    """BADGE (Ash et al. 2020): k-means++ draws on gradients of the last layer.

    A token's gradient at its most likely label is `(p - 1_yhat) kron x`; a row's is `pooling` of
    its tokens' (the source has one label an example). The first is the largest, then D^2 sampling.
    Gradients are never formed: `<g_i, g_k> = sum_{j,l} w_j w_l (a_j . a_l)(x_j . x_l)`, with
    a = p - 1_yhat and w the pooling's weights.

    Args:
        probabilities: (T, L), an array or a sparse one that keeps each token's most likely
            labels. Cutting p to k of them changes |a|^2 by at most 1 / (4 k), see
            `scores.top_probabilities`.
    """
    from scipy.sparse import csr_array, issparse  # takes a moment to import

    x, starts, weights = emb.tokens, emb.offsets[:-1], emb.weights(pooling)
    is_sparse = issparse(probabilities)
    p: Any = csr_array(probabilities) if is_sparse else np.asarray(probabilities)
    if p.ndim != 2 or p.shape[0] != len(x):
        raise UserError(f"probabilities must be (T, L) with T = {len(x)}, got shape {p.shape}")
    if not np.isfinite(p.data if is_sparse else p).all():
        raise UserError("probabilities must be finite numbers")
    likeliest = (np.arange(len(x)), p.argmax(axis=1))
    a: Any = p.astype(x.dtype)  # a copy
    if is_sparse:
        a = a - csr_array((np.ones(len(x), x.dtype), likeliest), shape=p.shape)
    else:
        a[likeliest] -= 1

    def products_with(i: int, rows: slice) -> np.ndarray:
        """`w_j sum_l w_l (a_j . a_l)(x_j . x_l)`, l the tokens of row i, for each j of `rows`."""
        own = slice(emb.offsets[i], emb.offsets[i + 1])
        of_row = a[own].toarray() if is_sparse else a[own]
        return weights[rows] * (((a[rows] @ of_row.T) * (x[rows] @ x[own].T)) @ weights[own])

    norms = np.array([np.sum(products_with(i, own)) for i, own in enumerate(_slices(emb))])
    rng = stream(terms.seed, "badge")

    def to(i: int) -> np.ndarray:
        inner = np.add.reduceat(products_with(i, slice(0, len(x))), starts)
        return np.maximum(norms + norms[i] - 2 * inner, 0)

    def draw(far: np.ndarray) -> int:
        return int(rng.choice(len(far), p=far / far.sum()))

    return _farthest(budget, np.argsort(-norms, kind="stable"), to, draw)


def _slices(emb: TokenEmbeddings) -> list[slice]:
    return [slice(a, b) for a, b in zip(emb.offsets[:-1], emb.offsets[1:], strict=True)]


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


def _weighted_order(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Drawn without replacement, p proportional to the weights (Efraimidis & Spirakis 2006)."""
    waiting = rng.exponential(size=len(weights)) / weights
    return np.argsort(waiting, kind="stable")


def _to_centres(
    points: np.ndarray, n_clusters: int | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Squared distance of each point to its k-means centre, and which one that is."""
    from sklearn.cluster import KMeans  # takes a second to import

    distinct = len(np.unique(points, axis=0))
    k = round(np.sqrt(len(points))) if n_clusters is None else n_clusters
    if not 1 <= k <= len(points):
        raise UserError(f"n_clusters must be from 1 to {len(points)}, the pool's size, got {k}")
    own_seed = int(rng.integers(2**32))  # scikit-learn takes no Generator
    means = KMeans(min(k, distinct), n_init=1, random_state=own_seed)  # pyright: ignore
    cluster = np.asarray(means.fit_predict(points))
    return np.sum((points - means.cluster_centers_[cluster]) ** 2, axis=1), cluster
