import numpy as np
import pytest

import fisher_jax as fj
from fisher_jax.design import beyond
from tests.helpers.references import DIM, N, f


@pytest.mark.parametrize("ridge", [0.1, 1.0])
def test_information_beyond_initial_rows_is_what_is_added_to_them(examples, emb, ridge):
    there, chosen = [5, 2, 17], [0, 9, 30, 4]
    more = beyond(emb, emb.take(np.array(there)), ridge)
    added = [f(examples, [*there, *chosen[:k]], ridge) for k in range(5)]
    got = f([more[i] for i in range(N)], chosen, ridge)
    assert got == pytest.approx(added[-1] - added[0], rel=1e-6)
    gains = fj.evaluate(more, chosen, ridge).gains
    np.testing.assert_allclose(gains, np.diff(added), rtol=1e-4)
    told = fj.select(emb, n_samples=10, ridge=ridge, initial=emb.take(np.array(there)))
    folded = fj.select(more, n_samples=10, ridge=ridge)
    np.testing.assert_array_equal(folded.ranking, told.ranking)
    np.testing.assert_allclose(folded.gains, told.gains, rtol=1e-4)


def test_initial_rows_of_another_width_are_refused(emb):
    other = fj.TokenEmbeddings.from_matrix(np.ones((2, DIM + 1)))
    with pytest.raises(ValueError, match="initial must have the pool's width"):
        beyond(emb, other, 1.0)
