"""Kernel densities of a pool's points, by random hashes or from all distances."""

import numpy as np
from jaxtyping import Float

from fisher_jax.streams import stream


def kernel_density(
    points: Float[np.ndarray, "N D"],
    seed: int,
    *,
    bandwidth: float = 1.0,
    n_hashes: int = 1000,
    n_buckets: int = 20_000,
) -> Float[np.ndarray, "N"]:
    """Mean share of the N points in each point's bucket, over random hashes; in (0, 1].

    `h(x) = floor((w . x + b) / r) mod B`, w ~ N(0, I), b ~ U(0, r): two passes over a count
    sketch (Sachdeva et al. 2024, Algorithm 2). The source tunes r; here it is `bandwidth` times
    the median distance of 1,000 random pairs. Its expectation is `exact_kernel_density`, but for
    chance collisions of 1 / B.

    Raises:
        ValueError: a bandwidth, n_hashes or n_buckets out of range.
    """
    if n_hashes < 1 or n_buckets < 1:
        raise ValueError(f"n_hashes and n_buckets must be at least 1, got {n_hashes}, {n_buckets}")
    rng = stream(seed, "density: hashes")
    r = _distance_scale(points, bandwidth, seed)
    total = np.zeros(len(points))
    for begin in range(0, n_hashes, 64):
        count = min(64, n_hashes - begin)
        w = rng.standard_normal((points.shape[1], count)).astype(points.dtype)
        cells = np.floor((points @ w + rng.uniform(0, r, count)) / r).astype(np.int64) % n_buckets
        for column in cells.T:
            total += np.bincount(column, minlength=n_buckets)[column]
    return total / (n_hashes * len(points))


def exact_kernel_density(
    points: Float[np.ndarray, "N D"], seed: int, *, bandwidth: float = 1.0
) -> Float[np.ndarray, "N"]:
    """What `kernel_density` estimates, from all N^2 distances c: the mean collision probability
    `1 - 2 Phi(-r/c) - 2 c / (sqrt(2 pi) r) (1 - exp(-r^2 / 2 c^2))` (Datar et al. 2004).
    """
    from scipy.spatial.distance import cdist
    from scipy.stats import norm

    r = _distance_scale(points, bandwidth, seed)
    ratio = r / np.maximum(cdist(points, points), 1e-12)
    tail = 2 / (np.sqrt(2 * np.pi) * ratio) * -np.expm1(-(ratio**2) / 2)
    return np.mean(1 - 2 * norm.cdf(-ratio) - tail, axis=1)


def _distance_scale(points: np.ndarray, bandwidth: float, seed: int) -> float:
    if not bandwidth > 0:
        raise ValueError(f"bandwidth must be positive, got {bandwidth}")
    pairs = stream(seed, "density: bandwidth").integers(len(points), size=(2, 1000))
    apart = np.linalg.norm(points[pairs[0]] - points[pairs[1]], axis=1)
    return bandwidth * (float(np.median(apart)) or 1.0)
