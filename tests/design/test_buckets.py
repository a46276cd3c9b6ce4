import itertools

import numpy as np
import pytest

from fisher_jax.design.buckets import ladder


def padded(edges, lengths):
    return sum(min(e for e in edges if e >= length) for length in lengths)


@pytest.mark.parametrize("seed", range(20))
def test_ladder_pads_as_little_as_brute_force(seed):
    rng = np.random.default_rng(seed)
    lengths, most = rng.integers(1, 12, 20), int(rng.integers(1, 5))
    values = np.unique(lengths)
    best = min(
        padded(edges, lengths)
        for k in range(1, most + 1)
        for edges in itertools.combinations(values, k)
        if edges[-1] == values[-1]
    )
    assert padded(ladder(lengths, most), lengths) == best


def test_ladder_rounds_up_to_steps_and_covers_the_longest():
    edges = ladder(np.array([1, 5, 9, 31]), 3, step=8)
    assert np.all(edges % 8 == 0)
    assert edges[-1] == 32


def test_ladder_of_very_many_lengths():
    lengths = np.random.default_rng(0).integers(1, 5000, 20_000)
    edges = ladder(lengths, 8)
    assert len(edges) == 8
    assert edges[-1] == lengths.max()
    assert padded(edges, lengths) < 1.2 * lengths.sum()
