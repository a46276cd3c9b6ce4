"""Memory that loading takes: a random Llama of a billion parameters in bfloat16.

    python -m scripts.loading_memory FOLDER

writes it into FOLDER (1.9 GB) if that is new, loads it, and prints the peak over the bytes of its
weights. Linux only; 1.07 and 1.12 when last measured.
"""

import json
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from fisher_jax.models.decoder import RotaryConfig, RotaryDecoder
from fisher_jax.models.files.export import config_fields, named_tensors
from fisher_jax.models.files.huggingface import load_folder

SIZES = RotaryConfig(64_000, 2048, 18, 32, 8, 64, 5632, 2048)


def main() -> None:
    """The command."""
    folder = Path(sys.argv[1])
    weights = folder / "model.safetensors"
    if not weights.exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config_fields(SIZES)))
        save_file(named_tensors(_random()), weights)
        sys.exit("written: run it again, in a process that has only to load")
    jax.numpy.zeros(1).block_until_ready()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    model, _ = load_folder(folder, ml_dtypes.bfloat16)
    jax.block_until_ready(nnx.state(model))
    print(f"{(_status('VmHWM') - before) / weights.stat().st_size:.3f}")


def _random() -> RotaryDecoder:
    build = nnx.eval_shape(lambda: RotaryDecoder(SIZES, dtype=ml_dtypes.bfloat16, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(build)
    rng = np.random.default_rng(0)

    def filled(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        return (rng.random(leaf.shape, np.float32) - 0.5).astype(ml_dtypes.bfloat16)

    return nnx.merge(graph, jax.tree.map(filled, state))


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


if __name__ == "__main__":
    main()
