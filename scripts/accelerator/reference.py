"""What the device's choices are compared with: the same on the CPU, and float64 NumPy.

`python -m scripts.accelerator.reference POOL.npz OUT.npz` selects on whatever JAX computes on.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import fisher_jax as fj
from fisher_jax.design.greedy import Method

TOLERANCE = 1e-5  # relative, of two gains that float32 need not tell apart


def on_cpu(emb: fj.TokenEmbeddings, n_lazy: int, n_naive: int, folder: Path) -> dict[str, Any]:
    """`choices` of a process that has the CPU alone."""
    pool, out = folder / "pool.npz", folder / "picks.npz"
    np.savez(pool, tokens=emb.tokens, offsets=emb.offsets, n=[n_lazy, n_naive])
    command = [sys.executable, "-m", "scripts.accelerator.reference", str(pool), str(out)]
    try:
        subprocess.run(command, check=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
        with np.load(out) as found:
            return dict(found)
    finally:
        pool.unlink(missing_ok=True)
        out.unlink(missing_ok=True)


def choices(emb: fj.TokenEmbeddings, n_lazy: int, n_naive: int) -> dict[str, Any]:
    """Rankings and gains of both methods, and seconds, compilation included."""
    found: dict[str, Any] = {}
    budgets: dict[Method, int] = {"lazy": n_lazy, "naive": n_naive}
    for method, n in budgets.items():
        begin = time.perf_counter()
        selection = fj.select(emb, n_samples=n, method=method)
        found |= {f"{method}_ranking": selection.ranking, f"{method}_gains": selection.gains}
        found[f"{method}_s"] = round(time.perf_counter() - begin, 2)
    return found


def exact_gains(emb: fj.TokenEmbeddings, ranking: np.ndarray, ridge: float = 1.0) -> np.ndarray:
    """Float64 `log det(I + X V^-1 X^T)` of each choice, V the ridge and those before it."""
    v, gains = ridge * np.eye(emb.dim), []
    for i in ranking:
        x = emb[i].astype(np.float64)
        gains.append(gain_of(x, v))
        v += x.T @ x
    return np.asarray(gains)


def gain_of(x_MxD: np.ndarray, v: np.ndarray) -> float:
    """Float64 gain of one example."""
    inner = np.eye(len(x_MxD)) + x_MxD @ np.linalg.solve(v, x_MxD.T)
    return float(np.linalg.slogdet(inner)[1])


def compared(emb: fj.TokenEmbeddings, ours: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """Where two rankings part, and whether that is rounding: float64 gains of both picks."""
    n = min(len(ours), len(other))
    at = np.flatnonzero(ours[:n] != other[:n])
    if not len(at):
        return {"compared": n, "equal": True, "allowed": True}
    k = int(at[0])
    v = np.eye(emb.dim)
    for i in ours[:k]:
        x = emb[i].astype(np.float64)
        v += x.T @ x
    picks = [int(ours[k]), int(other[k])]
    gains = [gain_of(emb[i].astype(np.float64), v) for i in picks]
    difference = abs(gains[0] / gains[1] - 1)
    return {
        "compared": n,
        "equal": False,
        "first_difference": {"choice": k, "picks": picks, "gains": gains, "relative": difference},
        "allowed": difference < TOLERANCE,
    }


def main() -> None:
    pool, out = map(Path, sys.argv[1:])
    with np.load(pool) as found:
        emb = fj.TokenEmbeddings(found["tokens"], found["offsets"])
        n_lazy, n_naive = map(int, found["n"])
    np.savez(out, **choices(emb, n_lazy, n_naive))


if __name__ == "__main__":
    main()
