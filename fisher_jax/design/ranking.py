"""What a rule gives: a `Ranking`, or a `Selection` that knows its gains too."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

Ranking = Int[np.ndarray, "n"]


class Selection(NamedTuple):
    """What was chosen.

    Attributes:
        ranking: (n,) indices into the pool in order of choice.
        gains: (n,) information gain of each choice in nats, given those before it.
        log_det: `f(S) = log det(ridge I + sum_{i in S} X_i^T X_i) - D log ridge` in nats, the sum
            of the gains.
    """

    ranking: Int[np.ndarray, "n"]
    gains: Float[np.ndarray, "n"]
    log_det: float

    @classmethod
    def of(cls, ranking: np.ndarray, gains: np.ndarray) -> "Selection":
        """With the sum of the gains."""
        return cls(ranking, gains, float(np.sum(gains, dtype=np.float64)))
