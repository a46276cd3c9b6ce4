"""What a selection's own numbers say of it, in sentences."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from fisher_jax.report.likeness import CLUSTERS, NEAR_COPY, Map, Nearest
from fisher_jax.report.subject import Subject
from fisher_jax.util.excerpt import counted

FLAT = 0.05  # of the first gains
_AT_ONCE = 10  # choices whose gains are averaged


def flat_from(gains: Float[np.ndarray, "n"]) -> int | None:
    """The rank from which gains have flattened; None where they have not, or are too few.

    The first rank whose ten choices have a mean gain below 5% of that of the first ten.
    """
    if len(gains) < 2 * _AT_ONCE:
        return None
    means = np.convolve(gains.astype(np.float64), np.full(_AT_ONCE, 1 / _AT_ONCE), "valid")
    flat = means < FLAT * means[0]
    return int(np.argmax(flat)) if flat.any() else None


def guidance(subject: Subject, nearest: Nearest, seen: Map | None) -> Iterator[str]:
    """On flattened gains, near copies, and the cluster of the pool that is most preferred."""
    if subject.rule.criterion is not None:
        yield from _on_gains(subject)
    if len(copies := nearest.copies):
        n, first = len(copies), copies[0]
        yield (
            f"{counted(n, 'choice')} {'is a near copy' if n == 1 else 'are near copies'} of an "
            f"earlier one (cosine of the rows' means above {NEAR_COPY}), first rank {first:,} of "
            f"rank {nearest.rank[first]:,}: near deduplication may leave such rows out."
        )
    else:
        yield f"No choice is a near copy of an earlier one (cosine above {NEAR_COPY})."
    if seen is not None and len(seen.centres) > 1:
        pool, chosen = cluster_shares(subject, seen)
        most = int(np.argmax(chosen - pool))
        if chosen[most] >= 2 * pool[most]:
            yield (
                f"Cluster {CLUSTERS[most]} has {pool[most]:.0%} of the pool and "
                f"{chosen[most]:.0%} of the choices."
            )


def cluster_shares(
    subject: Subject, seen: Map
) -> tuple[Float[np.ndarray, "C"], Float[np.ndarray, "C"]]:
    """Each cluster's share of the pool and of the choices."""
    chosen = seen.cluster[subject.selection.ranking]
    pool, own = (np.bincount(c, minlength=len(seen.centres)) for c in (seen.cluster, chosen))
    return pool / pool.sum(), own / own.sum()


def _on_gains(subject: Subject) -> Iterator[str]:
    gains = gains_by_criterion(subject)
    if len(gains) < 2 * _AT_ONCE:
        return
    per = ""
    if subject.rule.criterion == "gain_per_cost":
        per = " a token" if subject.prices is None else " a unit of cost"
    rank = flat_from(gains)
    if rank is None:
        share = gains[-_AT_ONCE:].mean() / gains[:_AT_ONCE].mean()
        yield (
            f"Gains{per} have not flattened: the last ten choices add {share:.0%} of what the "
            "first ten did."
        )
    else:
        yield (
            f"Gains{per} have flattened at rank {rank:,}: the ten choices from there add less "
            f"than {FLAT:.0%} of what the first ten did."
        )


def gains_by_criterion(subject: Subject) -> Float[np.ndarray, "n"]:
    """Of each choice, what its rule maximises: nats, or nats a token or a unit of cost."""
    gains = subject.selection.gains.astype(np.float64)
    if subject.rule.criterion != "gain_per_cost":
        return gains
    costs = subject.costs if subject.prices is None else subject.prices
    return gains / costs[subject.selection.ranking]
