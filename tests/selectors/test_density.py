import numpy as np
import pytest

from fisher_jax.selectors.density import kernel_density
from tests.helpers.references import exact_kernel_density


def test_density_sketch_is_the_exact_density():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.standard_normal((60, 5)), 4 + 0.1 * rng.standard_normal((60, 5))])
    exact_density = exact_kernel_density(points, 0)
    sketch = kernel_density(points, 0, n_hashes=4000)
    np.testing.assert_allclose(sketch, exact_density, rtol=0.06)
    assert exact_density[60:].min() > exact_density[:60].max()


def test_inverse_densities_vary():
    """Means of many vectors lie closer together than means of few, so their density is higher."""
    rng = np.random.default_rng(0)
    lengths = np.resize(np.arange(1, 20), 600)
    points = rng.standard_normal((600, 10)) / np.sqrt(lengths)[:, None]
    inverse = 1 / kernel_density(points, 0)
    assert np.std(inverse) / np.mean(inverse) > 1
    assert np.quantile(inverse, 0.9) > 4 * np.quantile(inverse, 0.1)
    alone = 1 / kernel_density(points, 0, n_joined=1)
    assert np.std(alone) / np.mean(alone) < 0.4


def test_copies_do_not_narrow_the_kernel_to_nothing():
    rng = np.random.default_rng(0)
    near_copies, others = 0.01 * rng.standard_normal((90, 3)), 5 * rng.standard_normal((10, 3))
    density = exact_kernel_density(np.concatenate([near_copies, others]), 0)
    assert density[:90].min() > 0.8 and density[90:].max() < 0.6


@pytest.mark.parametrize(
    "wrong", [{"n_hashes": 0}, {"n_buckets": 0}, {"bandwidth": 0.0}, {"n_joined": 0}]
)
def test_what_is_out_of_range_is_named(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}.* must be"):
        kernel_density(np.eye(3), 0, **wrong)
