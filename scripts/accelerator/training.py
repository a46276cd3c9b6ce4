"""Stage: tokens a second of training steps and of greedy decoding, ours and PyTorch's."""

import importlib.util
import time

import numpy as np

from fisher_jax.models import TokenizedRows
from fisher_jax.models.generate import generate_ids
from fisher_jax.training.finetune import TrainOptions, finetune
from scripts.accelerator.embedding import model_of, torch_device
from scripts.accelerator.record import Context, LeftOut, Numbers, Parts, compiled
from scripts.measuring import clock
from scripts.twins import has_torch, torch_continue, torch_step, torch_twin

STEPS = 24  # of which those told of first, compiled or slow, aren't counted
AT_ONCE = 0.05  # seconds between steps that were told of together
RANK = 16


def parts(job: Context) -> Parts:
    """The parts of the stage, the most telling first; peft changes the model, so it is last."""
    shape = (2, 32) if job.small else (64, 128)  # sequences, tokens of one
    middle, *others = [4, 2] if job.small else [256, 1024, 16, 64]  # rows decoded together
    new_tokens = 4 if job.small else 64

    def both(n: int) -> Parts:
        return {
            f"decoding_{n}": lambda: decoding(n, new_tokens),
            f"torch_decoding_{n}": lambda: torch_decoding(n, new_tokens),
        }

    found: Parts = {
        "full_float32": lambda: ours("full", "float32", shape),
        "torch_full_float32": lambda: theirs(shape),
        **both(middle),
        "full_bfloat16": lambda: ours("full", "bfloat16", shape),
        "torch_full_bfloat16": lambda: theirs(shape, autocast=True),
        "lora_float32": lambda: ours("lora", "float32", shape),
        "lora_bfloat16": lambda: ours("lora", "bfloat16", shape),
    }
    for n in others:
        found |= both(n)
    return found | {"torch_lora_float32": lambda: theirs(shape, lora=True)}


def ours(method: str, dtype: str, shape: tuple[int, int]) -> Numbers:
    """Steps of `finetune`: AdamW, clipping."""
    ids = random_ids(*shape)
    rows = TokenizedRows.after([*ids])
    options = TrainOptions(
        method,  # pyright: ignore[reportArgumentType]
        learning_rate=1e-5,
        epochs=STEPS,
        sequences=shape[0],
        sequence_length=shape[1],
        rank=RANK,
        dtype=dtype,
    )
    model = model_of("float32")
    times = [time.perf_counter()]
    finetune(model, rows, options, on_step=lambda *_: times.append(time.perf_counter()))
    since = np.asarray(times) - times[0]
    told = int(np.searchsorted(since, since[1] + AT_ONCE)) - 1  # losses are read in blocks
    seconds = (since[-1] - since[told]) / (STEPS - told) if told < STEPS else since[-1] / STEPS
    return rate(seconds, float(since[1]), shape)


def theirs(shape: tuple[int, int], lora: bool = False, autocast: bool = False) -> Numbers:
    """The same of PyTorch; float32 without TF32, bfloat16 by autocast, LoRA by peft."""
    if not has_torch():
        raise LeftOut("torch: not there")
    twin = torch_twin(torch_device())
    if lora:
        if importlib.util.find_spec("peft") is None:
            raise LeftOut("peft: not there")
        import peft  # pyright: ignore[reportMissingImports]

        adapters = peft.LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM")
        twin = peft.get_peft_model(twin, adapters)
    step = torch_step(twin, random_ids(*shape), autocast)
    cold, *warm = [clock(step) for _ in range(8)]
    return rate(float(np.median(warm)), cold, shape)


def rate(seconds: float, cold: float, shape: tuple[int, int]) -> Numbers:
    """Of a warm step."""
    tokens = shape[0] * shape[1]
    return {"step_tokens": tokens, "tokens_per_s": tokens / seconds} | compiled(cold, seconds)


def decoding(n: int, new_tokens: int) -> Numbers:
    """Greedy, n rows at a time."""
    prompts, module = random_ids(n, 7).tolist(), model_of("float32").module

    def run() -> None:
        generate_ids(module, prompts, max_new_tokens=new_tokens, batch_size=n)

    cold, warm = clock(run), clock(run)
    return {"rows": n, "tokens_per_s": n * new_tokens / warm} | compiled(cold, warm)


def torch_decoding(n: int, new_tokens: int) -> Numbers:
    """The same of transformers."""
    if not has_torch():
        raise LeftOut("torch: not there")
    twin, ids = torch_twin(torch_device()), random_ids(n, 7)
    cold, warm = (clock(lambda: torch_continue(twin, ids, new_tokens)) for _ in range(2))
    return {"rows": n, "tokens_per_s": n * new_tokens / warm} | compiled(cold, warm)


def random_ids(n: int, length: int) -> np.ndarray:
    """(n, length + 1) tokens."""
    return np.random.default_rng(0).integers(1000, 40_000, (n, length + 1), dtype=np.int32)
