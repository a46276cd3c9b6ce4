"""Which choices are like each other, and where pool and choices lie: by the rows' means."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from fisher_jax.design import TokenEmbeddings, TokenSource, part_of, pieces
from fisher_jax.report.subject import Subject
from fisher_jax.util.streams import stream

NEAR_COPY = 0.98  # cosine above which a choice is a near copy of an earlier one
CLUSTERS = "ABCDEFGH"  # their names, the largest first
SAMPLE = 5000  # rows of the pool that directions and clusters are made from
_DIRECTIONS = 16  # in which clusters are looked for


def import_libraries() -> None:
    """What is imported here when it is first needed, which takes a second and memory."""
    import sklearn.cluster
    import sklearn.decomposition  # noqa: F401


def row_means(emb: TokenSource) -> Float[np.ndarray, "N D"]:
    """The mean of each example's tokens; a pool that is not in memory is read once."""
    if isinstance(emb, TokenEmbeddings):
        return emb.pooled("mean")
    some = pieces(emb, np.arange(len(emb)))
    return np.concatenate([part_of(emb, piece).pooled("mean") for piece in some])


class Nearest(NamedTuple):
    """Of each choice, the most similar one before it; the first has rank -1 and cosine NaN."""

    rank: Int[np.ndarray, "n"]
    cosine: Float[np.ndarray, "n"]

    @property
    def copies(self) -> Int[np.ndarray, "c"]:
        """Ranks of the near copies."""
        return np.flatnonzero(np.nan_to_num(self.cosine) > NEAR_COPY)


def nearest_earlier(means_NxD: Float[np.ndarray, "N D"], ranking: Int[np.ndarray, "n"]) -> Nearest:
    """The earlier choice of the largest cosine between rows' means, less the pool's mean.

    Without the pool's mean all rows of a language model's embeddings look alike. Ties go to the
    first choice.
    """
    points = means_NxD[ranking] - means_NxD.mean(axis=0)
    norms = np.linalg.norm(points, axis=1, keepdims=True)
    points /= np.maximum(norms, np.finfo(points.dtype).tiny)
    rank, cosine = np.full(len(points), -1), np.full(len(points), np.nan)
    for begin in range(0, len(points), 1024):
        cosines = points[begin : begin + 1024] @ points[: begin + 1024].T
        later = np.arange(cosines.shape[1]) >= begin + np.arange(len(cosines))[:, None]
        cosines[later] = -np.inf
        some = slice(max(begin, 1), begin + len(cosines))
        best = np.argmax(cosines, axis=1)[some.start - begin :]
        rank[some] = best
        cosine[some] = cosines[np.arange(some.start - begin, len(cosines)), best]
    return Nearest(rank, cosine)


class Map(NamedTuple):
    """The pool seen from where it is widest.

    Attributes:
        places: (N, 2) along its first two principal components.
        shares: of the variance, that these two have.
        cluster: (N,) which cluster each example is in, the largest first.
        centres: (C, 2) of the clusters, in the same plane.
        typical: (C,) the choice nearest to each cluster's centre; -1 where it has none.
    """

    places: Float[np.ndarray, "N 2"]
    shares: Float[np.ndarray, "2"]
    cluster: Int[np.ndarray, "N"]
    centres: Float[np.ndarray, "C 2"]
    typical: Int[np.ndarray, "C"]


def map_of(subject: Subject, means_NxD: Float[np.ndarray, "N D"]) -> Map:
    """Principal components and k-means of the rows' means, both from a sample of the pool."""
    from sklearn.cluster import KMeans  # takes a second to import

    rng = stream(subject.seed, "report: map")
    sample = np.sort(rng.permutation(len(means_NxD))[:SAMPLE])
    own_seed = int(rng.integers(2**32))  # scikit-learn takes no Generator
    directions, shares = _principal(means_NxD[sample], own_seed)
    places = (means_NxD - means_NxD[sample].mean(axis=0)) @ directions
    k = min(len(CLUSTERS), len(np.unique(places[sample], axis=0)))
    found = KMeans(k, n_init=4, random_state=own_seed).fit(places[sample])  # pyright: ignore
    cluster, centres = np.asarray(found.predict(places)), found.cluster_centers_
    order = np.argsort(-np.bincount(cluster, minlength=k), kind="stable")
    cluster, centres = np.argsort(order)[cluster], centres[order]
    chosen = subject.selection.ranking
    typical = np.full(k, -1)
    apart = np.linalg.norm(places[chosen] - centres[cluster[chosen]], axis=1)
    for rank in np.argsort(-apart, kind="stable"):
        typical[cluster[chosen[rank]]] = chosen[rank]
    return Map(places[:, :2], shares[:2], cluster, centres[:, :2], typical)


def _principal(
    points_SxD: Float[np.ndarray, "S D"], seed: int
) -> tuple[Float[np.ndarray, "D k"], Float[np.ndarray, "k"]]:
    """The widest directions, and their shares of the variance; at least two, zero if they lack."""
    from sklearn.decomposition import PCA

    k = min(_DIRECTIONS, *points_SxD.shape)
    with np.errstate(invalid="ignore"):  # of equal points there is no variance to share
        found = PCA(k, svd_solver="randomized", random_state=seed).fit(points_SxD)
    directions, shares = np.asarray(found.components_).T, found.explained_variance_ratio_
    missing = max(0, 2 - k)
    return (
        np.pad(directions, ((0, 0), (0, missing))),
        np.pad(np.nan_to_num(shares), (0, missing)),
    )
