import numpy as np
import pytest

from fisher_jax.density import exact_kernel_density, kernel_density


def test_density_sketch_is_the_exact_density():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.standard_normal((60, 5)), 4 + 0.1 * rng.standard_normal((60, 5))])
    exact_density = exact_kernel_density(points, 0)
    sketch = kernel_density(points, 0, n_hashes=4000)
    np.testing.assert_allclose(sketch, exact_density, rtol=0.06)
    assert exact_density[60:].min() > exact_density[:60].max()


@pytest.mark.parametrize("wrong", [{"n_hashes": 0}, {"n_buckets": 0}, {"bandwidth": 0.0}])
def test_what_is_out_of_range_is_named(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}.* must be"):
        kernel_density(np.eye(3), 0, **wrong)
