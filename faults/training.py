"""A small fine-tuning with checkpoints: `python -m faults.training FOLDER`."""

import hashlib
import sys
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from experiments.run.harness import reporting
from fisher_jax.command.compiled import keep_compiled
from fisher_jax.training.finetune import Finetuned, finetune
from fisher_jax.util.files import remove_leftovers, replacing
from tests.helpers.tuning import language_model, options, random_rows


def train(checkpoints: Path, seed: int = 0) -> Finetuned:
    """Six steps on the rows of a seed, with a checkpoint after every second."""
    rows = random_rows(seed=seed)
    return finetune(language_model(), rows, options(), checkpoints=checkpoints, checkpoint_every=2)


def digest(found: Finetuned) -> str:
    """SHA-256 of losses and weights."""
    whole = hashlib.sha256(found.losses.tobytes())
    for leaf in jax.tree.leaves(nnx.state(found.model.module)):
        whole.update(np.asarray(leaf).tobytes())
    return whole.hexdigest()


if __name__ == "__main__":
    keep_compiled()
    folder = Path(sys.argv[1])
    with reporting("faults.training"):
        found = train(folder / "checkpoints")
        path = folder / "weights.sha256"
        remove_leftovers(path)
        with replacing(path) as temporary:
            temporary.write_text(digest(found))
