import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import random_pool

import fisher_jax as fj
from fisher_jax import greedy

pytestmark = pytest.mark.usefixtures("no_rank_promotion", "small_buckets")


@pytest.mark.parametrize(
    ("lengths", "counts", "expected"),
    [
        ([5], [3], [(0, 3, 5, 3)]),
        ([2, 5], [1, 3], [(0, 1, 2, 1), (1, 4, 5, 3)]),
        ([2, 5, 9], [1, 3, 4], [(0, 1, 2, 1), (1, 4, 5, 3), (4, 8, 9, 4)]),
        (
            [8, 9, 20, 500],
            [50, 50, 50, 1],
            [(0, 100, 9, 14), (100, 150, 20, 6), (150, 151, 500, 1)],
        ),
    ],
)
def test_merged_buckets_are_few_and_keep_a_rare_long_row_apart(lengths, counts, expected):
    ends = np.cumsum(counts).tolist()
    starts = [0, *ends[:-1]]
    buckets = tuple(
        greedy.Bucket.of(*three, rows=128) for three in zip(starts, ends, lengths, strict=True)
    )
    assert [tuple(b) for b in greedy.merged(buckets)] == expected


@pytest.mark.parametrize(
    ("n_tokens", "dim", "rows"),
    [(100_000, 576, 128), (1_600_000, 128, 1024), (20_000, 128, 312), (100, 1, 128)],
)
def test_batches_are_large_where_a_row_is_cheap_and_the_pool_large(n_tokens, dim, rows):
    assert greedy.batch_rows(n_tokens, dim) == rows


def test_selections_side_by_side_do_not_wait_for_each_other():
    program = """if True:
        from concurrent.futures import ThreadPoolExecutor
        import numpy as np
        import fisher_jax as fj

        tokens = np.random.default_rng(0).standard_normal((72_000, 64)).astype(np.float32)
        emb = fj.TokenEmbeddings(tokens, np.arange(0, 72_001, 120))
        assert fj.greedy.batch_rows(*tokens.shape) == 1024
        with ThreadPoolExecutor(4) as executor:
            list(executor.map(lambda _: fj.select(emb, n_samples=5), range(4)))
    """
    subprocess.run([sys.executable, "-c", program], check=True, timeout=200)


def test_one_trace_a_shape():
    emb = fj.TokenEmbeddings.from_list(random_pool(3, 33, [2, 5], 11))
    greedy.advance.clear_cache()
    for ridge in (1.0, 2.0, 3.0):
        fj.select(emb, n_samples=20, ridge=ridge, on_progress=lambda _: None)
    assert greedy.advance._cache_size() == 1


def kernels():
    """Every public kernel with a small example of its arguments."""
    emb = fj.TokenEmbeddings.from_list(random_pool(0, 20, [2, 5, 9], 8))
    with jax.enable_x64(True):
        pool, buckets = greedy.make_pool(emb, *np.ones((2, 20)))
        root = greedy.first_root(8, 1.0, np.float32)
        state = greedy.start(pool, 1.0, 5.0, buckets)
    yield "start", lambda pool: greedy.start(pool, 1.0, 5.0, buckets), (pool,)
    for method in ("lazy", "naive"):
        yield (
            f"advance {method}",
            lambda pool, state, method=method: greedy.advance(pool, state, 5, buckets, method),
            (pool, state),
        )
    yield "all_gains", lambda pool, root: greedy.all_gains(pool, root, buckets), (pool, root)
    yield (
        "replay",
        lambda pool, root, positions: greedy.replay(pool, root, positions, buckets),
        (pool, root, jnp.arange(5)),
    )


KERNELS = {name: (function, args) for name, function, args in kernels()}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_lower_for_every_platform(name):
    function, args = KERNELS[name]
    with jax.enable_x64(True):
        exported = jax.export.export(jax.jit(function), platforms=["cpu", "cuda", "tpu"])(*args)
    assert exported.platforms == ("cpu", "cuda", "tpu")


def dots(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from dots(inner)


@pytest.mark.parametrize("name", KERNELS)
def test_every_product_of_the_kernels_has_highest_precision(name):
    function, args = KERNELS[name]
    with jax.enable_x64(True):
        found = list(dots(jax.make_jaxpr(function)(*args).jaxpr))
    assert found
    for equation in found:
        assert set(equation.params["precision"]) == {jax.lax.Precision.HIGHEST}, equation
