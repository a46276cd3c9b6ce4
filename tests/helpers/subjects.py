"""Selections as a report takes them, for its tests."""

import numpy as np

from fisher_jax.report import Subject
from fisher_jax.selectors import SELECTORS


def subject(emb, selection, rule="fisher", *, ridge=1.0, seed=0, **more):
    """With examples' own numbers for texts and rows."""
    return Subject(
        emb,
        selection,
        SELECTORS[rule],
        ridge,
        seed,
        more.pop("costs", emb.lengths),
        np.arange(len(emb)),
        more.pop("preview", "example {}".format),
        **more,
    )
