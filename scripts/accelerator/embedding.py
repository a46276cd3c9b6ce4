"""Stage: tokens a second of SmolLM2's hidden states, ours and PyTorch's on one device."""

import functools
import time

import jax
import numpy as np
from flax import nnx

import fisher_jax as fj
from fisher_jax.corpora import shakespeare
from fisher_jax.embed import _hidden
from fisher_jax.models.load import load_model
from scripts.accelerator.record import Job, LeftOut, Numbers, Parts
from scripts.measuring import clock, median_clock
from scripts.twins import has_torch, torch_forward, torch_twin

LENGTH = 64  # tokens of a row
DTYPES = ("float32", "bfloat16")


def parts(job: Job) -> Parts:
    """The parts of the stage."""
    batches = [128, 256] if job.small else [1 << k for k in (12, 14, 16)]
    n = 40 if job.small else 5000
    found: Parts = {}
    for dtype in DTYPES:
        found[f"ours_{dtype}"] = lambda d=dtype: by_batch(functools.partial(ours, d), batches)
        found[f"torch_{dtype}"] = lambda d=dtype: by_batch(functools.partial(theirs, d), batches)
    found["whole"] = lambda: whole(n, batches[-1:])
    return found


def by_batch(measure, batches: list[int]) -> Numbers:
    """Tokens a second at each number of tokens of a batch, and the best."""
    rng = np.random.default_rng(0)
    rates = {}
    for tokens in batches:
        ids_BxT = rng.integers(1000, 40_000, (tokens // LENGTH, LENGTH), dtype=np.int32)
        cold, warm = measure(ids_BxT)
        rates[str(tokens)] = {"tokens_per_s": tokens / warm, "cold_s": cold}
    best = max(rates, key=lambda tokens: rates[tokens]["tokens_per_s"])
    return {"best": int(best), "tokens_per_s": rates[best]["tokens_per_s"], "by_batch": rates}


def ours(dtype: str, ids_BxT: np.ndarray) -> tuple[float, float]:
    """Cold and warm seconds, hidden states copied to the host."""
    graph, weights = nnx.split(model_of(dtype).module)

    def run() -> np.ndarray:
        return np.asarray(_hidden(graph, weights, ids_BxT))

    return clock(run), median_clock(run)


def theirs(dtype: str, ids_BxT: np.ndarray) -> tuple[float, float]:
    """The same of transformers on PyTorch; its default attention is torch's own (sdpa)."""
    if not has_torch():
        raise LeftOut("torch: not there")
    twin = torch_twin(torch_device(), dtype)
    return clock(lambda: torch_forward(twin, ids_BxT)), median_clock(
        lambda: torch_forward(twin, ids_BxT)
    )


def whole(n: int, batches: list[int]) -> Numbers:
    """`embed` of n of Shakespeare's sentences from text to array, compiled before."""
    texts = [row["text"] for row in shakespeare()]
    texts = [texts[i] for i in np.random.default_rng(0).permutation(len(texts))[:n]]
    model, rates = model_of("float32"), {}
    for tokens in batches:
        cold = clock(lambda t=tokens: fj.embed(texts, model, batch_tokens=t).tokens)
        begin = time.perf_counter()
        emb = fj.embed(texts, model, batch_tokens=tokens)
        seconds = time.perf_counter() - begin
        rates[str(tokens)] = {"tokens_per_s": len(emb.tokens) / seconds, "cold_s": cold}
    best = max(rates, key=lambda tokens: rates[tokens]["tokens_per_s"])
    return {"rows": n, "best": int(best), "by_batch": rates}


@functools.cache
def model_of(dtype: str):
    return load_model("smollm2-135m", dtype)


def torch_device() -> str:
    """Where PyTorch computes: on the card that JAX has, or the CPU."""
    return "cpu" if jax.default_backend() == "cpu" else "cuda"
