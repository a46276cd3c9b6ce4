"""Stage: the speed of `select`, in seconds and in products of all tokens with a D x D matrix."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import jax.numpy as jnp
import numpy as np

import fisher_jax as fj
from fisher_jax.platforms import PLATFORMS, here
from scripts.accelerator.record import Job, LeftOut, Numbers, Parts
from scripts.measuring import clock, median_clock, synthetic_pool

FACTORS = {5: (1, 1 / 16, 4, 1 / 256), 100: (1 / 16, 4)}  # of the batch's cost, by thousands
HIGHEST = jax.lax.Precision.HIGHEST


def parts(job: Job) -> Parts:
    """The parts of the stage, the most telling ones first."""
    unit = 20 if job.small else 1000  # examples
    dim, wide = (32, 64) if job.small else (576, 2048)
    n, n_more = (20, 40) if job.small else (500, 1000)
    pool = functools.lru_cache(1)(synthetic_pool)

    def name(thousands: int, of: int = dim) -> str:
        return f"n{thousands * unit}_d{of}"

    plain = {
        name(5): lambda: speed(pool(5 * unit, dim), n),
        "naive": lambda: naive(pool(5 * unit, dim), 20),
        "matmul": lambda: matmul(256 if job.small else 8192),
        "kernels": lambda: kernels(pool(5 * unit, dim), 20),
    }
    sweeps = {
        f"sweep_{name(k)}_x{factor:g}": lambda k=k, f=factor: swept(pool(k * unit, dim), n, f)
        for k in (5, 100)
        for factor in FACTORS[k]
    }
    first, second = ({k: v for k, v in sweeps.items() if name(s) in k} for s in (5, 100))
    return {
        **{key: plain[key] for key in (name(5), "naive", "matmul")},
        name(100): lambda: speed(pool(100 * unit, dim), n),
        name(20): lambda: speed(pool(20 * unit, dim), n_more),
        **first,
        **second,
        name(20, wide): lambda: speed(pool(20 * unit, wide), n_more),
        "kernels": plain["kernels"],
    }


def speed(emb: fj.TokenEmbeddings, n: int) -> Numbers:
    """Cold (compilation included, a filled cache not) and warm seconds of a selection."""
    copying = median_clock(lambda: jax.device_put(emb.tokens))
    cold = clock(lambda: fj.select(emb, n_samples=n))
    first = median_clock(lambda: fj.select(emb, n_samples=1))
    warm = median_clock(lambda: fj.select(emb, n_samples=n))
    product = product_seconds(emb)
    return {
        "shape": [len(emb), *emb.tokens.shape],
        "choices": n,
        "cold_s": cold,
        "warm_s": warm,
        "first_choice_s": first,
        "ms_a_choice": 1000 * (warm - first) / (n - 1),
        "copying_s": copying,
        "product_s": product,
        "select_in_products": warm / product,
    }


def product_seconds(emb: fj.TokenEmbeddings) -> float:
    """Of all tokens with a D x D matrix, both on the device."""
    x = jnp.asarray(emb.tokens)
    matrix = jnp.asarray(np.random.default_rng(0).standard_normal((emb.dim, emb.dim)), x.dtype)
    return rate_of(functools.partial(jnp.matmul, precision=HIGHEST), x, matrix)


def rate_of(function, *arguments: jax.Array) -> float:
    """Warm seconds of one call, of several in a row."""
    run = jax.jit(function)
    run(*arguments).block_until_ready()
    return median_clock(lambda: [run(*arguments) for _ in range(4)]) / 4


def matmul(size: int) -> Numbers:
    """Rate of a plain square float32 product."""
    x = jnp.ones((size, size), jnp.float32)
    seconds = {
        precision.name.lower(): rate_of(functools.partial(jnp.matmul, precision=precision), x, x)
        for precision in (HIGHEST, jax.lax.Precision.DEFAULT)
    }
    return {"size": size} | {f"{k}_tflops": 2 * size**3 / s / 1e12 for k, s in seconds.items()}


def naive(emb: fj.TokenEmbeddings, n: int) -> Numbers:
    """Algorithm 1."""
    cold = clock(lambda: fj.select(emb, n_samples=n, method="naive"))
    warm = median_clock(lambda: fj.select(emb, n_samples=n, method="naive"))
    return {"choices": n, "cold_s": cold, "warm_s": warm, "ms_a_choice": 1000 * warm / n}


def swept(emb: fj.TokenEmbeddings, n: int, factor: float) -> Numbers:
    """`speed` with another cost of a batch, and the batch's rows that it asks for."""
    with batch_cost(factor) as cost:
        cold = clock(lambda: fj.select(emb, n_samples=n))
        warm = min(clock(lambda: fj.select(emb, n_samples=n)) for _ in range(2))
    rows = 2 ** np.round(np.log2(np.sqrt(len(emb.tokens) / 64 * cost) / emb.dim))
    return {
        "factor": factor,
        "batch_cost": cost,
        "rows": int(rows),
        "cold_s": cold,
        "warm_s": warm,
        "ms_a_choice": 1000 * warm / n,
    }


@contextmanager
def batch_cost(factor: float) -> Iterator[float]:
    """The table's row of this device with that multiple of its batch's cost."""
    row = here()
    try:
        PLATFORMS[row.name] = row._replace(batch_cost=row.batch_cost * factor)
        yield row.batch_cost * factor
    finally:
        PLATFORMS[row.name] = row


def kernels(emb: fj.TokenEmbeddings, n: int) -> Numbers:
    """Kernels that the device runs for one choice, by JAX's profiler."""
    fj.select(emb, n_samples=n)
    with TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            fj.select(emb, n_samples=n)
        (path,) = Path(folder).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(path))
        counts = {
            f"{plane.name} {line.name}": sum(1 for _ in line.events)
            for plane in profile.planes
            if plane.name.startswith("/device:")
            for line in plane.lines
            if line.name.startswith("Stream")
        }
    if not counts:
        raise LeftOut("the profiler tells no kernels of this device")
    return {"choices": n, "kernels_a_choice": sum(counts.values()) / n, "events": counts}
