import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fisher_jax as fj
from fisher_jax.design import greedy
from fisher_jax.design.budget import Budget
from fisher_jax.design.device_pool import first_room, make_pool
from fisher_jax.util import platforms
from tests.helpers.references import random_pool

pytestmark = [
    pytest.mark.optimised,
    pytest.mark.usefixtures("no_rank_promotion", "small_buckets"),
]


@pytest.mark.parametrize(
    ("n_tokens", "dim", "longest", "rows"),
    [(105_000, 576, 64, 512), (1_600_000, 128, 64, 4096), (100, 1, 1, 128), (100, 4096, 64, 128)],
)
def test_batches_are_large_where_a_row_is_cheap_and_the_pool_large(
    monkeypatch, n_tokens, dim, longest, rows
):
    monkeypatch.undo()  # of small_buckets
    assert platforms.batch_rows(n_tokens, dim, longest) == rows


def test_batches_leave_most_of_the_memory_free(device, device_memory):
    device(batch_cost=1e12)
    device_memory(8 * 4 * (2 * 100 + 56) * 100)
    assert platforms.batch_rows(10**6, 100, 56) == 100


def test_a_pool_that_the_device_cannot_hold_is_refused_with_its_size(device_memory):
    emb = fj.TokenEmbeddings.from_list(random_pool(0, 20, [2, 5, 30], 8))
    n_bytes = 4 * 8 * int(np.minimum(emb.lengths, 8).sum())
    device_memory(n_bytes / 0.74)
    fj.select(emb, n_samples=3)
    device_memory(n_bytes / 0.76)
    with pytest.raises(ValueError, match=r"embeddings need 0\.0 GB on the device"):
        fj.select(emb, n_samples=3)
    fj.select(emb, n_samples=3, pool_dtype="bfloat16")


def test_more_tokens_than_int32_counts_are_refused():
    with pytest.raises(ValueError, match=r"at most 2\^31 - 1"):
        platforms.check_fits(np.full(1 << 16, 1 << 15), 1 << 20)


def test_what_a_tpu_has_not_is_refused_by_name(monkeypatch):
    emb = fj.TokenEmbeddings.from_list(random_pool(0, 20, [2, 5], 8))
    monkeypatch.setattr("jax.default_backend", lambda: "tpu")
    fj.select(emb, token_budget=20)
    with pytest.raises(ValueError, match="a TPU has no float64"):
        fj.select(emb, n_samples=3, ridge=1e-6)
    with pytest.raises(ValueError, match="a TPU has no float64"):
        fj.select(emb, token_budget=20, costs=np.full(20, 1.5))


def test_selections_side_by_side_do_not_wait_for_each_other():
    program = """if True:
        from concurrent.futures import ThreadPoolExecutor
        import numpy as np
        import fisher_jax as fj
        from fisher_jax.util import platforms

        tokens = np.random.default_rng(0).standard_normal((72_000, 64)).astype(np.float32)
        emb = fj.TokenEmbeddings(tokens, np.arange(0, 72_001, 120))
        assert platforms.batch_rows(*tokens.shape, 64) >= 1024
        with ThreadPoolExecutor(4) as executor:
            list(executor.map(lambda _: fj.select(emb, n_samples=5), range(100)))
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
    pool, shapes = make_pool(emb)
    root, room = greedy.first_root(8, 1.0, np.float32), first_room(Budget.of(emb, n_samples=5))
    state = greedy.start(pool, root, room, shapes)
    yield "start", lambda pool, root: greedy.start(pool, root, room, shapes), (pool, root)
    for method in ("lazy", "naive"):
        yield (
            f"advance {method}",
            lambda pool, state, method=method: greedy.advance(pool, state, 5, shapes, method),
            (pool, state),
        )
    yield "all_gains", lambda pool, root: greedy.all_gains(pool, root, shapes), (pool, root)
    yield (
        "replay",
        lambda pool, root, positions: greedy.replay(pool, root, positions, shapes),
        (pool, root, jnp.arange(5)),
    )


KERNELS = {name: (function, args) for name, function, args in kernels()}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_lower_for_every_platform(name):
    function, args = KERNELS[name]
    exported = jax.export.export(jax.jit(function), platforms=["cpu", "cuda", "tpu"])(*args)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert "f64" not in exported.mlir_module()  # which TPUs have not


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
    found = list(dots(jax.make_jaxpr(function)(*args).jaxpr))
    assert found
    for equation in found:
        assert set(equation.params["precision"]) == {jax.lax.Precision.HIGHEST}, equation
