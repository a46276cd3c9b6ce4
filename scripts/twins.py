"""SmolLM2 in PyTorch, by transformers: the model that ours is compared with."""

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from fisher_jax.models import load_model
from fisher_jax.models.files.export import save_folder


def has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


@functools.cache
def torch_twin(device: str = "cpu", dtype: str = "float32") -> Any:
    """SmolLM2 as transformers' model, from our own weights: of a GGUF it may keep packed ones.

    float32 is multiplied in full precision.
    """
    import torch  # pyright: ignore[reportMissingImports]
    from transformers import AutoModelForCausalLM

    torch.backends.cuda.matmul.allow_tf32 = False
    with TemporaryDirectory() as folder:
        save_folder(load_model("smollm2-135m"), Path(folder))
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    theirs.to(device)  # pyright: ignore[reportArgumentType]
    return theirs.eval()


def torch_forward(theirs: Any, ids_BxT: np.ndarray) -> np.ndarray:
    """Hidden states of the last layer, back on the host."""
    import torch  # pyright: ignore[reportMissingImports]

    with torch.inference_mode():
        ids = torch.from_numpy(ids_BxT).long().to(theirs.device)
        return theirs.model(input_ids=ids, use_cache=False).last_hidden_state.float().cpu().numpy()


def torch_step(theirs: Any, ids_BxT: np.ndarray, autocast: bool = False) -> Callable[[], float]:
    """A full fine-tuning step (AdamW, clipping) of what in the model wants a gradient."""
    import torch  # pyright: ignore[reportMissingImports]

    theirs.train()
    optimizer = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=1e-5)
    batch = torch.from_numpy(ids_BxT).long().to(theirs.device)

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast(theirs.device.type, torch.bfloat16, enabled=autocast):
            logits = theirs(input_ids=batch[:, :-1]).logits
        labels = batch[:, 1:].flatten()
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        return loss.item()  # which waits for the device

    return step


def torch_continue(theirs: Any, ids_BxT: np.ndarray, new_tokens: int) -> np.ndarray:
    """Greedy decoding of exactly so many new tokens."""
    import torch  # pyright: ignore[reportMissingImports]

    batch = torch.from_numpy(ids_BxT).long().to(theirs.device)
    with torch.inference_mode():
        return (
            theirs.generate(
                input_ids=batch,
                attention_mask=torch.ones_like(batch),
                do_sample=False,
                min_new_tokens=new_tokens,
                max_new_tokens=new_tokens,
            )
            .cpu()
            .numpy()
        )
