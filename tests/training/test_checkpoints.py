"""Killed runs go on where they were; checkpoints of another run are refused."""

import json
import re
import shutil
import warnings

import jax
import numpy as np
import pytest
from flax import nnx

from fisher_jax.training.checkpoints import Checkpoints
from fisher_jax.training.finetune import finetune
from fisher_jax.util import files
from fisher_jax.util.errors import UserError
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


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with checkpoints at steps 3 and 6, and its folder."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return train_in(folder), folder


def train_in(folder, on_step=None):
    given = {"checkpoints": folder, "checkpoint_every": 3, "on_step": on_step}
    return finetune(language_model(), random_rows(), options(), **given)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def flip_array(step):
    flip(max((step / "arrays").rglob("*"), key=lambda path: path.stat().st_size))


def flip_losses(step):
    path = step / "history/metadata"
    path.write_text(path.read_text().replace('"losses": [', '"losses": [1'))


@pytest.mark.parametrize(
    "damage",
    [
        flip_array,
        flip_losses,
        lambda step: (step / "arrays/manifest.ocdbt").unlink(),
        lambda step: shutil.rmtree(step / "arrays"),
        shutil.rmtree,
    ],
    ids=["bit", "losses", "file", "arrays", "step"],
)
def test_in_place_of_a_damaged_checkpoint_the_one_before_is_taken(damage, finished, tmp_path):
    expected, folder = finished
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    damage(tmp_path / "steps/6")
    with pytest.warns(UserWarning, match=f"{tmp_path}/steps/6 is damaged or lost: .* before it"):
        again = train_in(tmp_path)
    np.testing.assert_array_equal(again.losses, expected.losses)
    both = (jax.tree.leaves(nnx.state(r.model.module)) for r in (again, expected))
    for a, b in zip(*both, strict=True):
        np.testing.assert_array_equal(a, b)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train_in(tmp_path)  # it was saved anew


def test_without_any_whole_checkpoint_training_starts_anew(finished, tmp_path):
    expected, folder = finished
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for step in (3, 6):
        flip_array(tmp_path / "steps" / str(step))
    with pytest.warns(UserWarning) as told:
        again = train_in(tmp_path)
    assert sum("is damaged or lost" in str(w.message) for w in told) == 2
    np.testing.assert_array_equal(again.losses, expected.losses)


@pytest.mark.parametrize("content", ["", '{"run": "ab', '"an earlier version"', "[]"])
def test_a_damaged_run_file_is_told_with_its_path(content, finished, tmp_path):
    _, folder = finished
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}/run.json is damaged")):
        train_in(tmp_path)
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match=f"{tmp_path} holds checkpoints but no run.json"):
        train_in(tmp_path)


def test_a_disk_without_room_is_told_before_a_step_is_trained(finished, tmp_path, monkeypatch):
    expected, folder = finished
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage)
    np.testing.assert_array_equal(train_in(tmp_path).losses, expected.losses)  # nothing is left
    newest = max((tmp_path / "steps").iterdir(), key=lambda path: int(path.name))
    shutil.rmtree(newest)
    told = rf"next step's files in {tmp_path} need about .* MB, and 1.0 MB are free"
    with pytest.warns(UserWarning, match="damaged or lost"), pytest.raises(UserError, match=told):
        train_in(tmp_path, lambda *step: pytest.fail(f"trained {step}"))
    assert not newest.exists()


def test_one_run_at_a_time_has_a_folder(finished, tmp_path):
    expected, folder = finished
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    whose = json.loads((tmp_path / "run.json").read_text())["run"]
    told = pytest.raises(UserError, match=f"{tmp_path} is in use by another run: wait")
    with Checkpoints.opened(tmp_path, whose), told:
        train_in(tmp_path)
    left = tmp_path / ".run.json.abcdefgh.tmp"  # by a kill
    left.touch()
    np.testing.assert_array_equal(train_in(tmp_path).losses, expected.losses)
    assert not left.exists()
