"""Selection in one pass: each row is read once, and kept or left for good."""

import math

import numpy as np
from jaxtyping import Float, Int

from fisher_jax.design.budget import Budget
from fisher_jax.design.embeddings import TokenSource, part_of, pieces
from fisher_jax.design.fresh_root import REFRESH, fresh_root
from fisher_jax.design.precision import in_precision
from fisher_jax.design.ranking import Selection
from fisher_jax.design.streaming import Stream
from fisher_jax.util.errors import UserError
from fisher_jax.util.progress import OnProgress
from fisher_jax.util.streams import stream


class _Window:
    """A pool of which some examples are in memory, and only those can be read."""

    def __init__(self, source: TokenSource) -> None:
        self._source, self.lengths = source, source.lengths
        self.dim, self.dtype = source.dim, source.dtype
        self.mean_squared_norm = source.mean_squared_norm

    def __len__(self) -> int:
        return len(self._source)

    def hold(self, examples: Int[np.ndarray, "n"]) -> None:
        """These, and no others, in the order in which they are stored."""
        self._examples = np.sort(examples)
        self._held = part_of(self._source, self._examples)

    def read(self, examples: Int[np.ndarray, "n"]) -> Float[np.ndarray, "t D"]:
        return self._held.read(np.searchsorted(self._examples, examples))


def in_one_pass(
    emb: TokenSource,
    budget: Budget,
    per: np.ndarray,
    *,
    ridge: float | int,
    seed: int,
    epsilon: float = 0.2,
    alpha: float = 0.15,
    on_progress: OnProgress | None = None,
) -> Selection:
    """Rows in random order, each taken if its gain is at least a threshold, which falls.

    ThreeSieves (Buschjäger, Honysz, Pfahler & Morik 2020, arXiv 2010.10059). The threshold begins
    at the largest gain among the first rows. It falls to 1 - epsilon of itself when
    `log(1 / alpha) (cost of the rows to come) / (budget left)` rows in succession were left: were
    the share of rows above it large enough to spend the budget, so many would be left with a chance
    of at most alpha ("rule of three"). When what is to come only just spends the budget, all of it
    is taken.

    For a budget of n rows that are independent draws, the source tells a share of the best f of
    (1 - epsilon)(1 - 1/e) with a chance of (1 - alpha)^n, little for large n; its thresholds are of
    the whole f, not of one row's gain, and fall after a fixed number of rows. With costs nothing is
    guaranteed, nor is a share for every order of rows. SieveStreaming (Badanidiyuru et al. 2014)
    has 1/2 - epsilon of it there, but keeps `log(2 n) / epsilon` roots of D x D and evaluates as
    many gains a row, more than exact lazy selection does. `fj.certify` tells one selection's share.

    Args:
        emb: the pool; one that is read as it is needed too. Each row is read once, up to 8,192
            choices; after each so many the chosen ones are read again.
        budget: what may be spent.
        per: (N,) what gains are divided by.
        ridge: positive; V = ridge I before the first choice.
        seed: of the order, which has a stream of its own.
        epsilon: by which the threshold falls, above 0 and below 1.
        alpha: above 0 and below 1; the smaller, the more slowly it falls. The defaults were the
            most even of a few values over budgets of 1% to 33% of made-up pools.
        on_progress: called with the budget spent.

    Raises:
        UserError: another epsilon or alpha.
    """
    for name, share in {"epsilon": epsilon, "alpha": alpha}.items():
        if not 0 < share < 1:
            raise UserError(f"{name} must be above 0 and below 1, got {share}")
    order = stream(seed, "fisher_sieve").permutation(len(emb))
    window = _Window(emb)
    costs, left = budget.units
    to_come, failed, threshold = costs.sum(dtype=np.float64), 0, None
    with in_precision(emb, ridge, budget) as dtype:
        state = Stream(window, budget, per, None, ridge, dtype)
        for part in pieces(emb, order):
            window.hold(part)
            state.evaluate(part)
            if threshold is None:
                threshold = float(state.keys(part).max())
            for at, i in enumerate(part.tolist()):
                if left < costs[i]:
                    to_come -= costs[i]
                    continue
                is_last = to_come <= left
                near = state.key(i) >= threshold
                if (near or is_last) and not state.is_fresh(i):
                    rest = part[at:]
                    state.evaluate_first(rest[(state.keys(rest) >= threshold) | (rest == i)])
                to_come -= costs[i]
                if is_last or state.key(i) >= threshold:
                    state.take(i)
                    left, failed = left - costs[i], 0
                    if on_progress is not None:
                        on_progress(int(state.spent))
                    if len(state.ranking) % REFRESH == 0:
                        state.root = fresh_root(emb, np.asarray(state.ranking), ridge, dtype)
                else:
                    failed += 1
                    if failed * left >= math.log(1 / alpha) * to_come:
                        threshold, failed = threshold * (1 - epsilon), 0
            if left < costs.min():
                break
        return Selection.of(np.asarray(state.ranking, np.int64), np.asarray(state.gains, dtype))
