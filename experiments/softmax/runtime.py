"""Run time against n: Algorithms 1 and 2 as in the paper, and ours."""

import time
from typing import Any

import numpy as np
from tqdm import tqdm

import fisher_jax as fj
from experiments.softmax.algorithms import algorithm_1, algorithm_2
from experiments.softmax.generators import make_problem

STEPS, CANDIDATES = 2, 500  # of Algorithm 1 that are timed; the rest is extrapolated


def study(options: Any, setting: dict) -> list[dict]:
    """Seconds of each algorithm at each n; which of Algorithm 2's float64 picks are ours."""
    rows = []
    for replicate in tqdm(range(options.replicates), desc="run time", unit="replicate"):
        emb = make_problem(options, replicate).emb
        wide = fj.TokenEmbeddings(emb.tokens.astype(np.float64), emb.offsets)
        fj.select(emb, n_samples=options.budgets[0])  # compiles
        for n in options.budgets:
            begin = time.perf_counter()
            ours = fj.select(emb, n_samples=n)
            seconds = {"fisher_jax": time.perf_counter() - begin}
            picks, seconds["algorithm_2"] = algorithm_2(emb, n)
            _, seconds["algorithm_1"] = algorithm_1(emb, n, steps=STEPS, candidates=CANDIDATES)
            same = {
                "shared": len(set(picks) & set(ours.ranking.tolist())) / n,
                "same_in_float64": picks == fj.select(wide, n_samples=n).ranking.tolist(),
            }
            rows += [
                {"selector": k, "n": n, "replicate": replicate, "seconds": v, "equal": "examples"}
                | (same if k == "fisher_jax" else {})
                for k, v in seconds.items()
            ]
    return rows
