"""Stage: the speed of `select`, in seconds and in products of all tokens with a D x D matrix."""

import functools
import gzip
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import jax.numpy as jnp
import numpy as np

import fisher_jax as fj
from fisher_jax.util.platforms import PLATFORMS, here
from scripts.accelerator.record import Context, LeftOut, Numbers, Parts, compiled
from scripts.measuring import clock, median_clock, synthetic_pool

FACTORS = {5: (1, 1 / 16, 4, 1 / 256), 100: (1 / 16, 4)}  # of the batch's cost, by thousands
HIGHEST = jax.lax.Precision.HIGHEST
PROGRAM = "jit_advance"  # that makes the choices
OF_BATCH = "potrf_reset_info"  # in the name of a kernel that runs once a batch of candidates
LONGEST = 10  # kernels that are told one by one


def parts(job: Context) -> Parts:
    """The parts of the stage, the most telling ones first."""
    unit = 20 if job.small else 1000  # examples
    dim, wide = (32, 64) if job.small else (576, 2048)
    n, n_more = (20, 40) if job.small else (500, 1000)
    pool = functools.lru_cache(1)(synthetic_pool)

    def name(thousands: int, of: int = dim) -> str:
        return f"n{thousands * unit}_d{of}"

    def speed_of(thousands: int, choices: int, of: int = dim) -> Parts:
        return {name(thousands, of): lambda: speed(pool(thousands * unit, of), choices)}

    sweeps = {
        f"sweep_{name(k)}_x{factor:g}": lambda k=k, f=factor: swept(pool(k * unit, dim), n, f)
        for k, factors in FACTORS.items()
        for factor in factors
    }
    return {
        "compiling": lambda: compiling(8000 if not job.small else 80, dim),
        **speed_of(5, n),
        "kernels": lambda: kernels(pool(5 * unit, dim), 20),
        **speed_of(20, n_more, wide),
        **speed_of(100, n),
        **speed_of(20, n_more),
        **sweeps,
        "naive": lambda: naive(pool(5 * unit, dim), 20),
        "matmul": lambda: matmul(256 if job.small else 8192),
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
        **compiled(cold, warm),
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


def compiling(rows: int, dim: int) -> Numbers:
    """Seconds to compile a product of a pool's shape with and without Triton's, and its rate."""
    x, matrix = jnp.ones((rows, dim), jnp.float32), jnp.ones((dim, dim), jnp.float32)
    found: Numbers = {"shape": [rows, dim]}
    for name, with_triton in (("triton", True), ("cublas", False)):
        run = jax.jit(
            functools.partial(jnp.matmul, precision=HIGHEST),
            compiler_options={"xla_gpu_enable_triton_gemm": with_triton},
        )
        begin = time.perf_counter()
        program = run.lower(x, matrix).compile()
        found[f"{name}_compile_s"] = time.perf_counter() - begin
        seconds = median_clock(lambda p=program: [p(x, matrix) for _ in range(8)]) / 8
        found[f"{name}_tflops"] = 2 * rows * dim**2 / seconds / 1e12
    return found


def naive(emb: fj.TokenEmbeddings, n: int) -> Numbers:
    """Algorithm 1."""
    cold = clock(lambda: fj.select(emb, n_samples=n, method="naive"))
    warm = median_clock(lambda: fj.select(emb, n_samples=n, method="naive"))
    return {"choices": n, "ms_a_choice": 1000 * warm / n} | compiled(cold, warm)


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
        **compiled(cold, warm),
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
    """What the device runs for the first n choices, by JAX's profiler."""
    fj.select(emb, n_samples=n)
    with TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            fj.select(emb, n_samples=n)
        (path,) = Path(folder).rglob("*.trace.json.gz")
        return summary(json.loads(gzip.decompress(path.read_bytes())), n)


def summary(trace: Numbers, choices: int) -> Numbers:
    """Kernels, copies and busy microseconds a choice, the longest kernels with their share.

    Args:
        trace: of JAX's profiler, as its `trace.json.gz` has it.
        choices: that were made in it.
    """
    events = trace["traceEvents"]
    streams = {
        (event["pid"], event["tid"])
        for event in events
        if event.get("name") == "thread_name" and event["args"]["name"].startswith("Stream")
    }
    busy: dict[str, list[float]] = {}
    for event in events:
        is_of_choices = event.get("args", {}).get("hlo_module") == PROGRAM
        if is_of_choices and (event["pid"], event["tid"]) in streams:
            busy.setdefault(event["name"], []).append(event["dur"])
    counts = Counter({name: len(durations) for name, durations in busy.items()})
    microseconds = Counter({name: sum(durations) for name, durations in busy.items()})
    if not counts:
        raise LeftOut("the profiler tells no kernels of this device")
    total = microseconds.total()
    copies = sum(n for name, n in counts.items() if name.startswith(("Memcpy", "Memset")))
    return {
        "choices": choices,
        "batches_a_choice": sum(n for k, n in counts.items() if OF_BATCH in k) / choices,
        "kernels_a_choice": (counts.total() - copies) / choices,
        "device_to_host_copies_a_choice": counts["MemcpyD2H"] / choices,
        "busy_us_a_choice": total / choices,
        "longest": [
            {"kernel": name[:80], "a_choice": counts[name] / choices, "share": us / total}
            for name, us in microseconds.most_common(LONGEST)
        ],
    }
