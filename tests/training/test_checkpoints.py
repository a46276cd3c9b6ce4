"""Killed runs go on where they were; checkpoints of another run are refused."""

import jax
import numpy as np
import pytest
from flax import nnx

from fisher_jax.training.finetune import finetune
from tests.helpers.tuning import language_model, nll_by_hand, options, random_rows


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
