"""Speed and memory beside their yardsticks, in one process run; writes benchmarks/results.json.

`make bench`, or `python -m scripts.bench --quick` for a shorter one. Ratios compare medians of
interleaved runs; absolute times are this machine's and no target.
"""

import argparse
import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from threadpoolctl import threadpool_info
from tqdm import tqdm

import fisher_jax as fj
from experiments.softmax.algorithms import algorithm_1, algorithm_2
from fisher_jax.design.projection import projected, projection
from fisher_jax.util.files import replacing
from fisher_jax.util.provenance import provenance
from scripts.cells import cells_an_hour
from scripts.measuring import clock, median_clock, real_pool, synthetic_pool
from scripts.narrow import narrow
from scripts.races import embedding_race, fit_race, generation_race, training_race
from scripts.twins import has_torch

OUT = Path(__file__).parents[1] / "benchmarks"
N_SAMPLES = 500
REPEATS = 5
APPROXIMATE = ["fisher_stochastic", "fisher_in_parts", "fisher_sieve"]
PROJECTED = (256, 128)  # from D = 576
WITH_TORCH = ["embedding", "generation", "training"]  # with transformers on PyTorch
SLOW = ["cells", *WITH_TORCH]  # not with --quick, and with the real model only
SECTIONS = ["selection", "synthetic", "approximate", "narrow", "memory", "fits", "drift", "growth"]
SECTIONS += SLOW


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument(
        "--quick",
        action="store_true",
        help="without Algorithm 2 in NumPy, the races with PyTorch and the largest growth points",
    )
    p.add_argument(
        "--synthetic", action="store_true", help="no model: a synthetic pool of the same shape"
    )
    p.add_argument(
        "--only",
        nargs="+",
        choices=SECTIONS,
        default=SECTIONS,
        help="these parts; the others stay in results.json as they are",
    )
    args = p.parse_args()
    OUT.mkdir(exist_ok=True)
    path = OUT / "results.json"
    results: dict = json.loads(path.read_text()) if path.exists() and args.only != SECTIONS else {}

    @functools.cache
    def pool() -> fj.TokenEmbeddings:
        return synthetic_pool(5000) if args.synthetic else real_pool(5000)

    parts: dict[str, Callable[[], dict]] = {
        "selection": lambda: selection_speed(pool(), quick=args.quick),
        "synthetic": lambda: selection_speed(synthetic_pool(5000), quick=True),
        "approximate": approximate,
        "narrow": lambda: narrow(synthetic_pool(1000) if args.synthetic else real_pool(1000)),
        "memory": lambda: memory(pool()),
        "fits": fit_race,
        "drift": lambda: drift(pool()),
        "growth": lambda: growth(quick=args.quick),
        "cells": cells_an_hour,
        "embedding": embedding_race,
        "generation": generation_race,
        "training": training_race,
    }
    for name in args.only:
        if name in SLOW and (args.synthetic or args.quick):
            continue
        left_out = {"left_out": "needs pip install -e '.[parity]'"}
        part = left_out if name in WITH_TORCH and not has_torch() else parts[name]()
        results[name] = part | {"machine": machine()}
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(results, indent=2) + "\n")
    print_table(results)


def machine() -> dict:
    blas = {f"{i['internal_api']} {i.get('architecture', '')}" for i in threadpool_info()}
    return provenance() | {"blas": sorted(blas)}


def selection_speed(emb: fj.TokenEmbeddings, *, quick: bool) -> dict:
    """Ours, warm and cold, beside the product of all tokens with a D x D matrix and the paper's."""
    products = products_of(emb)
    cold = clock(lambda: fj.select(emb, n_samples=N_SAMPLES))
    ours, one = [], {name: [] for name in products}
    for _ in range(REPEATS):
        for name, product in products.items():
            one[name].append(min(clock(product) for _ in range(3)))
        ours.append(clock(lambda: fj.select(emb, n_samples=N_SAMPLES)))
    warm = float(np.median(ours))
    seconds = {name: float(np.median(times)) for name, times in one.items()}
    ranking = fj.select(emb, n_samples=N_SAMPLES).ranking
    _, slow1 = algorithm_1(emb, N_SAMPLES, steps=2, candidates=100)
    result = {
        "select_warm_s": warm,
        "select_cold_s": cold,
        "compilation_s": cold - warm,
        "product_s": seconds["jax"],
        "select_in_products": warm / seconds["jax"],
        "product_numpy_s": seconds["numpy"],
        "select_in_numpy_products": warm / seconds["numpy"],
        "algorithm_1_numpy_s": slow1,
        "speedup_over_algorithm_1": slow1 / warm,
        "shape": [len(emb), *emb.tokens.shape],
        "choices": N_SAMPLES,
    }
    if not quick:
        with tqdm(total=N_SAMPLES, desc="Algorithm 2 in NumPy") as bar:
            picks, slow2 = algorithm_2(emb, N_SAMPLES, bar.update)
        result |= {
            "algorithm_2_numpy_s": slow2,
            "speedup_over_algorithm_2": slow2 / warm,
            "same_ranking_as_algorithm_2": picks == ranking.tolist(),
        }
    return result


def products_of(emb: fj.TokenEmbeddings) -> dict[str, Callable[[], object]]:
    """The product of all tokens with a D x D matrix: XLA's, and NumPy's into a buffer."""
    matrix = np.random.default_rng(0).standard_normal((emb.dim, emb.dim)).astype(np.float32)
    buffer, x, on_device = np.empty_like(emb.tokens), jnp.asarray(emb.tokens), jnp.asarray(matrix)
    run = jax.jit(functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST))
    run(x, on_device).block_until_ready()
    return {
        "jax": lambda: run(x, on_device),
        "numpy": lambda: np.dot(emb.tokens, matrix, out=buffer),
    }


def approximate() -> dict:
    """What the inexact rules keep of the exact f, and their time in the exact rule's, warm.

    `projected to K` is the exact rule on a random projection of wider embeddings to K dimensions,
    projecting included.
    """
    narrow, wide = synthetic_pool(5000, dim=128), synthetic_pool(5000)
    rules = {name: beside_exact(narrow, fj.SELECTORS[name]) for name in APPROXIMATE}
    shorter = {f"projected to {to}": beside_exact(wide, by_projection(to)) for to in PROJECTED}
    return {
        "shape": [len(narrow), *narrow.tokens.shape],
        "projected_from": wide.dim,
        "choices": N_SAMPLES,
        **rules,
        **shorter,
    }


def by_projection(to: int) -> Callable[..., fj.Selection]:
    """The exact rule on a projection; its gains are the projection's."""

    def rule(emb: fj.TokenEmbeddings, *, seed: int = 0, **budget: Any) -> fj.Selection:
        return fj.select(projected(emb, projection(emb.dim, to, seed)), **budget)

    return rule


def beside_exact(emb: fj.TokenEmbeddings, rule: Callable[..., fj.Selection]) -> dict:
    """One rule's shares of the exact f, at equal rows and at equal tokens, and its time."""
    budget: dict[str, Any] = {"n_samples": N_SAMPLES}
    same_tokens = {"token_budget": N_SAMPLES * float(emb.lengths.mean()), "criterion": "gain"}

    def shares(of: dict[str, Any]) -> list[float]:
        most = fj.select(emb, **of).log_det
        rankings = [rule(emb, **of, seed=seed).ranking for seed in range(REPEATS)]
        return [fj.evaluate(emb, ranking).log_det / most for ranking in rankings]

    rows, tokens = shares(budget), shares(same_tokens)
    pairs = [
        (clock(lambda: rule(emb, **budget)), clock(lambda: fj.select(emb, **budget)))
        for _ in range(REPEATS)
    ]
    return {
        "mean_share_of_exact": float(np.mean(rows)),
        "least_share_of_exact": float(np.min(rows)),
        "mean_share_at_equal_tokens": float(np.mean(tokens)),
        "time_in_exact": float(np.median([own / other for own, other in pairs])),
    }


def memory(emb: fj.TokenEmbeddings) -> dict:
    """Largest resident size of a process that loads the embeddings and selects."""
    program = (
        "import re, sys, numpy as np, fisher_jax as fj;"
        "emb = fj.TokenEmbeddings(np.load(sys.argv[1]), np.load(sys.argv[2]));"
        f"fj.select(emb, n_samples={N_SAMPLES});"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/tokens.npy", f"{folder}/offsets.npy"]
        np.save(paths[0], emb.tokens)
        np.save(paths[1], emb.offsets)
        run = [sys.executable, "-c", program, *paths]
        peak = 1024 * int(subprocess.run(run, check=True, capture_output=True).stdout)
    return {
        "embeddings_bytes": emb.tokens.nbytes,
        "peak_resident_bytes": peak,
        "wanted_bytes": int(2.5 * emb.tokens.nbytes + 500e6),
    }


def drift(emb: fj.TokenEmbeddings) -> dict:
    """The same choices replayed in float32 and float64: largest relative error of a gain."""
    ranking = fj.select(emb, n_samples=len(emb)).ranking
    wide = fj.TokenEmbeddings(emb.tokens.astype(np.float64), emb.offsets)
    narrow, exact = fj.evaluate(emb, ranking).gains, fj.evaluate(wide, ranking).gains
    return {
        "choices": len(ranking),
        "largest_relative_error": float(np.max(abs(narrow / exact - 1))),
    }


def growth(*, quick: bool) -> dict:
    """Time against N at n = 500 and against n at N = 5,000, with the slope of log against log."""
    sizes = [1000, 5000, 20_000] if quick else [1000, 5000, 20_000, 80_000]
    budgets = [100, 1000] if quick else [100, 1000, 5000]
    by_size, by_budget, in_products = [], [], []
    for n in tqdm(sizes, desc="growth with N"):
        emb = synthetic_pool(n, dim=128)
        fj.select(emb, n_samples=500)
        by_size.append(median_clock(lambda emb=emb: fj.select(emb, n_samples=500)))
        in_products.append(by_size[-1] / median_clock(products_of(emb)["jax"]))
    emb = synthetic_pool(5000, dim=128)
    for k in tqdm(budgets, desc="growth with n"):
        fj.select(emb, n_samples=k)
        by_budget.append(median_clock(lambda k=k: fj.select(emb, n_samples=k)))
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    slopes = []
    for axis, x, y, label in (
        (axes[0], sizes, by_size, "pool N (n = 500, D = 128)"),
        (axes[1], budgets, by_budget, "choices n (N = 5,000, D = 128)"),
    ):
        slopes.append(float(np.polyfit(np.log(x), np.log(y), 1)[0]))
        axis.loglog(x, y, "o-", color="black")
        axis.set(xlabel=label, ylabel="seconds, warm", title=f"exponent {slopes[-1]:.2f}")
    with replacing(OUT / "growth.png") as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    return {
        "N": sizes,
        "seconds_N": by_size,
        "products_N": in_products,
        "exponent_N": slopes[0],
        "n": budgets,
        "seconds_n": by_budget,
        "exponent_n": slopes[1],
        "dim": 128,
    }


def print_table(results: dict) -> None:
    for name, part in results.items():
        print(f"\n{name}")
        for key, value in part.items():
            print(f"  {key:28} {f'{value:.3g}' if isinstance(value, float) else value}")


if __name__ == "__main__":
    sys.exit(main())
