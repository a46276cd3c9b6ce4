"""Greedy selection in two rounds: within random parts of the pool, then among what they chose."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jaxtyping import Int

from fisher_jax.design.budget import Budget
from fisher_jax.design.embeddings import TokenEmbeddings, TokenSource, part_of
from fisher_jax.design.ranking import Selection
from fisher_jax.design.selection import greedily
from fisher_jax.util.errors import UserError
from fisher_jax.util.progress import OnProgress
from fisher_jax.util.streams import stream

LEAST_PARTS = 4
PART_BYTES = 1 << 30  # of embeddings, where there are more parts than the least


def in_two_rounds(
    emb: TokenSource,
    budget: Budget,
    per: np.ndarray,
    *,
    ridge: float | int,
    seed: int,
    parts: int | None = None,
    on_progress: OnProgress | None = None,
) -> Selection:
    """The whole budget is spent within each part alone, then once more on what the parts chose.

    RandGreeDI: the best of the second round's set and the parts' has, for a budget of rows, at
    least `(1 - 1/e) / 2` of the best possible f in expectation over the parts (Barbosa, Ene, Nguyen
    & Ward 2015, arXiv 1502.02606; GreeDi, Mirzasoleiman et al. 2013, arXiv 1411.0541). With costs
    or groups nothing is guaranteed.

    Parts know nothing of each other: with several local devices each works on one at a time, and of
    a pool that is read as it is needed only those parts are in memory, and at last what they chose,
    `parts` times the budget. On one device there are `parts + 1` selections for one.

    Args:
        emb: the pool; one that is read as it is needed too.
        budget: what may be spent.
        per: (N,) what gains are divided by.
        ridge: positive; V = ridge I before the first choice of each selection.
        seed: of the parts, which have a stream of their own: each row is in any of them with
            the same chance.
        parts: their number; default 4, or as many more as make one about 1 GiB.
        on_progress: called with the share of the selections that are done, of the budget.

    Raises:
        UserError: no parts.
    """
    if parts is None:
        parts = max(LEAST_PARTS, math.ceil(4.0 * emb.lengths.sum() * emb.dim / PART_BYTES))
    if parts < 1:
        raise UserError(f"parts must be at least 1, got {parts}")
    part_N = stream(seed, "fisher_in_parts").integers(parts, size=len(emb))
    rows = [r for k in range(parts) if len(r := np.flatnonzero(part_N == k))]
    profile, devices = _profile(emb.lengths, rows), jax.local_devices()

    def choose(k: int) -> Selection:
        with jax.default_device(devices[k % len(devices)]):
            return _within(emb, rows[k], budget, per, ridge, profile)

    found = []
    with ThreadPoolExecutor(len(devices)) as threads:
        for selection in threads.map(choose, range(len(rows))):
            found.append(selection)
            if on_progress is not None:
                on_progress(int(budget.total * len(found) / (len(rows) + 1)))
    union = np.sort(np.concatenate([selection.ranking for selection in found]))
    found.insert(0, _within(emb, union, budget, per, ridge, np.sort(emb.lengths[union])))
    best = max(found, key=lambda s: (budget.in_examples and len(s.ranking), s.log_det))
    if on_progress is not None:
        on_progress(int(budget.costs[best.ranking].sum()))
    return best


def _profile(
    lengths: Int[np.ndarray, "N"], parts: Sequence[Int[np.ndarray, "_"]]
) -> Int[np.ndarray, "m"]:
    """Ascending lengths that the rows of each part fit into, so that one program is for all."""
    profile = np.ones(max(map(len, parts)), np.int64)
    for rows in parts:
        own = profile[len(profile) - len(rows) :]
        np.maximum(own, np.sort(lengths[rows]), out=own)
    return profile


def _within(
    emb: TokenSource,
    rows: Int[np.ndarray, "n"],
    budget: Budget,
    per: np.ndarray,
    ridge: float | int,
    profile: Int[np.ndarray, "m"],
) -> Selection:
    """`greedily` from some rows, with zeros behind their tokens, which add nothing.

    Where the profile has more rows than these, its shortest ones can't be bought.
    """
    own, more = part_of(emb, rows), len(profile) - len(rows)
    room = np.empty_like(profile)
    room[np.argsort(own.lengths, kind="stable")] = profile[more:]
    room[len(rows) :] = profile[:more]
    offsets = np.concatenate([[0], np.cumsum(room)])
    tokens = np.zeros((offsets[-1], emb.dim), own.dtype)
    shift = np.repeat(offsets[: len(rows)] - own.offsets[:-1], own.lengths)
    tokens[np.arange(len(own.tokens)) + shift] = own.tokens
    padded = TokenEmbeddings(tokens, offsets)
    found = greedily(
        padded, budget.within(rows, more), np.pad(per[rows], (0, more), "edge"), ridge=ridge
    )
    return found._replace(ranking=rows[found.ranking])
