"""Killed runs go on where they were; checkpoints of another run are refused."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from tuning import language_model, nll_by_hand, options, random_rows

from fisher_jax.finetune import finetune


class KilledError(Exception):
    pass


@pytest.mark.parametrize(("method", "sign"), [("full", 0), ("lora", 1), ("last_layer", -1)])
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path, method, sign):
    """The best model is none, one after the kill, and the first validated, before it."""
    model, rows = language_model(), random_rows()
    given = options(method=method, epochs=4, validate_every=3)

    def train(**more):
        judge = (lambda candidate: sign * nll_by_hand(candidate, rows)) if sign else None
        return finetune(model, rows, given, validate=judge, **more)

    expected = train()
    if sign:
        steps, losses = zip(*expected.validation, strict=True)
        assert (steps[int(np.argmin(losses))] > 5) == (sign == 1)

    def kill(step, steps, loss):
        if step == 5:
            raise KilledError

    with pytest.raises(KilledError):
        train(checkpoints=tmp_path, checkpoint_every=2, on_step=kill)
    done = []
    resumed = train(
        checkpoints=tmp_path, checkpoint_every=2, on_step=lambda step, *_: done.append(step)
    )
    assert done[0] == 5
    assert resumed.validation == expected.validation
    np.testing.assert_array_equal(resumed.losses, expected.losses)
    for a, b in zip(
        jax.tree.leaves(nnx.state(resumed.model.module)),
        jax.tree.leaves(nnx.state(expected.model.module)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_checkpoints_of_another_run_are_refused(tmp_path):
    model, rows = language_model(), random_rows()
    finetune(model, rows, options(), checkpoints=tmp_path)
    with pytest.raises(ValueError, match="holds checkpoints of other rows"):
        finetune(model, rows, options(learning_rate=0.5), checkpoints=tmp_path)
    with pytest.raises(ValueError, match="holds checkpoints of other rows"):
        finetune(model, rows, options(), checkpoints=tmp_path, validate=lambda candidate: 0.0)


def test_a_tuned_model_is_another_model(tmp_path):
    """A second stage in the folder of the first would begin at its end."""
    model, rows = language_model(), random_rows()
    tuned = finetune(model, rows, options(), checkpoints=tmp_path).model
    again = finetune(model, rows, options()).model
    assert tuned.weights_sha256 == again.weights_sha256 != model.weights_sha256
    with pytest.raises(ValueError, match="holds checkpoints of other rows, options or weights"):
        finetune(tuned, rows, options(), checkpoints=tmp_path)


def test_eight_devices_give_the_losses_of_one():
    """And a run that is killed goes on to the same bytes. In a process of its own, since the
    number of devices is fixed at start."""
    here = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", _SHARDED],
        cwd=here,
        env=os.environ
        | {
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "PYTHONPATH": f"{here}:{here}/tests",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "divided 8 ways" in done.stdout


_SHARDED = """
import tempfile
from pathlib import Path

import jax, numpy as np
from flax import nnx
from jax.sharding import Mesh
from tuning import language_model, nll_by_hand, options, random_rows

from fisher_jax.finetune import finetune

model, rows = language_model(), random_rows(n=40)
mesh = Mesh(np.array(jax.devices()), ("data",))
assert mesh.size == 8
for method, fsdp in (("lora", True), ("full", False), ("full", True)):
    given = options(method=method, sequences=8, epochs=3)
    expected = finetune(model, rows, given).losses
    tuned = finetune(model, rows, given, mesh=mesh, fsdp=fsdp)
    np.testing.assert_allclose(tuned.losses, expected, atol=1e-4, rtol=0)
    if method != "full":
        continue
    kernel = tuned.model.module.layers.gate.kernel[...]
    parts = kernel.size // kernel.addressable_shards[0].data.size
    assert parts == (8 if fsdp else 1), parts

def kill(step, *_):
    if step == 3:
        raise KeyboardInterrupt

given = given._replace(validate_every=2)
kept = dict(mesh=mesh, fsdp=True, validate=lambda m: nll_by_hand(m, rows))
whole = finetune(model, rows, given, **kept)
with tempfile.TemporaryDirectory() as folder:
    kept |= {"checkpoints": Path(folder), "checkpoint_every": 1}
    try:
        finetune(model, rows, given, **kept, on_step=kill)
    except KeyboardInterrupt:
        pass
    done = []
    resumed = finetune(model, rows, given, **kept, on_step=lambda step, *_: done.append(step))
assert done[0] == 3, done
np.testing.assert_array_equal(resumed.losses, whole.losses)
for a, b in zip(*(jax.tree.leaves(nnx.state(r.model.module)) for r in (resumed, whole))):
    np.testing.assert_array_equal(a, b)
print(f"divided {parts} ways")
"""
