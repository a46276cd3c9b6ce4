"""Run time against n: Algorithms 1 and 2 as in the paper, and ours."""

import time
from typing import Any

from tqdm import tqdm

import fisher_jax as fj
from experiments.algorithms import algorithm_1, algorithm_2
from experiments.generators import make_problem

STEPS, CANDIDATES = 2, 500  # of Algorithm 1 that are timed; the rest is extrapolated


def study(options: Any, setting: dict) -> list[dict]:
    """Seconds of each algorithm at each n, and whether Algorithm 2's picks are ours."""
    rows = []
    for replicate in tqdm(range(options.replicates), desc="run time", unit="replicate"):
        emb = make_problem(options, replicate).emb
        fj.select(emb, n_samples=options.budgets[0])  # compiles
        for n in options.budgets:
            begin = time.perf_counter()
            ours = fj.select(emb, n_samples=n)
            seconds = {"fisher_jax": time.perf_counter() - begin}
            picks, seconds["algorithm_2"] = algorithm_2(emb, n)
            _, seconds["algorithm_1"] = algorithm_1(emb, n, steps=STEPS, candidates=CANDIDATES)
            rows += [
                {"selector": k, "n": n, "replicate": replicate, "seconds": v, "equal": "examples"}
                | ({"same_picks": picks == ours.ranking.tolist()} if k == "fisher_jax" else {})
                for k, v in seconds.items()
            ]
    return rows
