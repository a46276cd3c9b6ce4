"""Stage: tokens a second of SmolLM2's hidden states, ours and PyTorch's on one device."""

import functools
import time
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

import fisher_jax as fj
from experiments.corpora.corpora import shakespeare
from fisher_jax.models import load_model
from fisher_jax.models.embed import hidden_states
from scripts.accelerator.record import Context, LeftOut, Numbers, Parts, compiled
from scripts.measuring import MAX_TOKENS, clock, median_clock
from scripts.twins import has_torch, torch_forward, torch_twin

BATCH = 1 << 14  # tokens of a batch whose program `whole` and the real pool of `parity` use as well
DTYPES = ("float32", "bfloat16")


def parts(job: Context) -> Parts:
    """The parts of the stage, the most telling first."""
    middle, *others = [128, 256] if job.small else [BATCH, 1 << 16, 1 << 12]
    found = of_batch(middle) | {"whole": lambda: whole(20 * middle // MAX_TOKENS, middle)}
    for tokens in others:
        found |= of_batch(tokens)
    return found


def of_batch(tokens: int) -> Parts:
    """Ours and PyTorch's with that many tokens of a batch."""
    shape = (tokens // MAX_TOKENS, MAX_TOKENS)
    ids_BxT = np.random.default_rng(0).integers(1000, 40_000, shape, dtype=np.int32)
    found: Parts = {}
    for dtype in DTYPES:
        found[f"ours_{dtype}_{tokens}"] = lambda d=dtype: ours(d, ids_BxT)
        found[f"torch_{dtype}_{tokens}"] = lambda d=dtype: theirs(d, ids_BxT)
    return found


def ours(dtype: str, ids_BxT: np.ndarray) -> Numbers:
    """Hidden states copied to the host."""
    graph, weights = nnx.split(model_of(dtype).module)
    begin = time.perf_counter()
    program = hidden_states.lower(graph, weights, ids_BxT).compile()
    seconds = time.perf_counter() - begin
    return {"compile_s": seconds} | rate(lambda: np.asarray(program(weights, ids_BxT)), ids_BxT)


def theirs(dtype: str, ids_BxT: np.ndarray) -> Numbers:
    """The same of transformers on PyTorch; its default attention is torch's own (sdpa)."""
    if not has_torch():
        raise LeftOut("torch: not there")
    twin = torch_twin(torch_device(), dtype)
    return rate(lambda: torch_forward(twin, ids_BxT), ids_BxT)


def rate(run: Callable[[], np.ndarray], ids_BxT: np.ndarray) -> Numbers:
    """Tokens a second, after a first run."""
    first, warm = clock(run), median_clock(run)
    return {"first_s": first, "warm_s": warm, "tokens_per_s": ids_BxT.size / warm}


def whole(n: int, batch_tokens: int) -> Numbers:
    """`embed` of n of Shakespeare's sentences, cut, from text to array."""
    texts = [row["text"] for row in shakespeare()]
    texts = [texts[i] for i in np.random.default_rng(0).permutation(len(texts))[:n]]
    model = model_of("float32")

    def run() -> np.ndarray:
        return fj.embed(texts, model, max_length=MAX_TOKENS + 1, batch_tokens=batch_tokens).tokens

    cold, tokens = clock(run), len(run())
    warm = clock(run)
    return {"rows": n, "tokens": tokens, "tokens_per_s": tokens / warm} | compiled(cold, warm)


@functools.cache
def model_of(dtype: str):
    return load_model("smollm2-135m", dtype)


def torch_device() -> str:
    """Where PyTorch computes: on the card that JAX has, or the CPU."""
    return "cpu" if jax.default_backend() == "cpu" else "cuda"
