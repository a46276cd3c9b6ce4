"""Packing, adapters and fine-tuning, on tiny random models."""

import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh

from fisher_jax.models.embed import TokenizedRows, forward
from fisher_jax.models.load import LanguageModel
from fisher_jax.training import finetune as finetune_module
from fisher_jax.training import packing
from fisher_jax.training.adapters import merged, untied, with_lora
from fisher_jax.training.finetune import DivergedError, batches_of, finetune, learning_rates
from fisher_jax.training.packing import Batches, arrange, packed_states
from tests.helpers.compiling import with_devices
from tests.helpers.random_models import MODELS, random_ids
from tests.helpers.tuning import language_model, nll_by_hand, options, random_rows


@pytest.fixture
def model(request):
    return language_model(getattr(request, "param", "llama"))


both_families = pytest.mark.parametrize("model", ["llama", "gpt2"], indirect=True)


@pytest.mark.parametrize("shape", [(1, 4, 16), (2, 2, 16), (1, 1, 13)])
def test_packing_keeps_every_row_once_and_whole(shape):
    rows = random_rows(prompt=1)
    order = np.random.default_rng(1).permutation(20)
    seen = []
    for batch in Batches(rows, [order], shape, weights=np.arange(20.0)):
        assert batch.ids.shape == shape
        flat = [part.reshape(-1, shape[2]) for part in batch]
        for ids, positions, segments, labels, weights in zip(*flat, strict=True):
            for segment in np.unique(segments[segments > 0]):
                own = segments == segment
                np.testing.assert_array_equal(positions[own], np.arange(own.sum()))
                tokens = [*ids[own], labels[own][-1]]
                (row,) = [i for i in order if list(rows.ids[i]) == tokens]
                expected = np.where(positions[own] >= 1, row, 0)  # the prompt has two tokens
                np.testing.assert_array_equal(weights[own], expected)
                seen.append(row)
    assert sorted(seen) == list(range(20))


@pytest.mark.parametrize("sequences", [1, 3, 5, 40])
def test_a_row_goes_to_the_first_sequence_with_room(sequences):
    rows = random_rows(n=60)
    order, length = np.random.default_rng(2).permutation(60), 20
    used = None
    for places in arrange(rows, order, (1, sequences, length)):
        if used is not None:  # the row that begins a batch had no room in the one before
            assert used.min() + len(rows.ids[places[0].row]) - 1 > length
        used = np.zeros(sequences, int)
        for row, sequence, begin in places:
            fed = len(rows.ids[row]) - 1
            assert sequence == np.flatnonzero(used + fed <= length)[0] and begin == used[sequence]
            used[sequence] += fed


def test_packing_takes_time_in_proportion_to_the_rows():
    """With as many sequences as rows, as `packed_states` asks for."""

    def seconds(n):
        ids = [np.zeros(40 + k % 25, np.int32) for k in range(n)]
        rows = TokenizedRows.after(ids)
        begin = time.process_time()
        list(arrange(rows, np.arange(n), (1, n, 64)))
        return time.process_time() - begin

    few, many = (min(seconds(n) for _ in range(3)) for n in (4_000, 40_000))
    assert many < 25 * few


def test_batches_are_made_when_they_are_asked_for(monkeypatch):
    made = []
    real = packing._batch
    monkeypatch.setattr(packing, "_batch", lambda *args: made.append(1) or real(*args))
    batches = batches_of(random_rows(), options(epochs=50))
    assert len(batches) >= 50 and len(made) <= 1  # of which a type checker looks at one
    made.clear()
    assert batches[3].ids.shape == batches[-1].ids.shape and len(made) == 2


def test_a_row_longer_than_a_sequence_is_refused():
    rows = random_rows()
    longest = int(np.argmax([len(ids) for ids in rows.ids]))
    with pytest.raises(ValueError, match=f"row {longest} has .* raise sequence_length"):
        Batches(rows, [np.arange(20)], (1, 4, 8))


@both_families
def test_packed_rows_do_not_see_each_other(model):
    rows = random_rows(prompt=1)
    expected = forward(model, rows, 64)
    np.testing.assert_allclose(packed_states(model, rows, 3, 20), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("together", "expected"), [(1, 1), (2, 2), (64, 8)])
def test_packed_sequences_are_the_devices_and_no_more_than_are_filled(
    model, device, monkeypatch, together, expected
):
    rows, shapes = random_rows(n=60), []
    forward_pass = packing._packed

    def watched(graph, weights, ids, *others):
        shapes.append(ids.shape)
        return forward_pass(graph, weights, ids, *others)

    monkeypatch.setattr(packing, "_packed", watched)
    device(forward_tokens=64 * together)
    expected_states = forward(model, rows)
    np.testing.assert_allclose(
        packed_states(model, rows, length=64), expected_states, rtol=0, atol=2e-5
    )
    assert set(shapes) == {(expected, 64)}


@both_families
def test_lora_starts_as_the_model_and_merging_changes_nothing(model):
    ids = jnp.asarray(random_ids(2, 9))
    expected = model.module(ids)
    adapted = with_lora(nnx.merge(*nnx.split(model.module)), rank=2, seed=0)
    np.testing.assert_array_equal(adapted(ids), expected)
    state = nnx.state(adapted, nnx.LoRAParam)
    nnx.update(adapted, jax.tree.map(lambda x: x + 0.1, state))
    changed = adapted(ids)
    assert np.abs(changed - expected).max() > 0.1
    np.testing.assert_allclose(merged(adapted)(ids), changed, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(model.module(ids), expected)  # the model itself is untouched


@both_families
def test_untying_copies_the_head(model):
    free = untied(model.module)
    np.testing.assert_array_equal(free.head, model.module.head)
    free.untied_head.embedding[...] += 1
    assert model.module.config.tied
    assert np.abs(free.head - model.module.head).min() > 0.5


@both_families
@pytest.mark.parametrize("method", ["full", "lora", "last_layer"])
def test_training_lowers_the_loss_of_its_rows_and_leaves_the_model_alone(model, method):
    rows = random_rows(prompt=1)
    before = nll_by_hand(model, rows)
    tuned = finetune(model, rows, options(method=method, learning_rate=0.02, epochs=20))
    assert nll_by_hand(tuned.model, rows) < 0.97 * before
    assert nll_by_hand(model, rows) == before
    same = np.asarray(tuned.model.module.embedding.embedding[...]) == np.asarray(
        model.module.embedding.embedding[...]
    )
    assert same.all() == (method != "full")


def test_the_first_loss_is_the_mean_nll_of_the_first_batch(model):
    rows = random_rows(n=8, prompt=1)
    tuned = finetune(model, rows, options(epochs=1, sequences=8))
    assert len(tuned.losses) == 1
    counted = rows.counted.sum()
    np.testing.assert_allclose(tuned.losses[0], nll_by_hand(model, rows) / counted, rtol=1e-5)


def test_accumulated_gradients_are_those_of_one_batch(model):
    rows = random_rows()
    once = finetune(model, rows, options(method="full"))
    parts = finetune(model, rows, options(method="full", micro_batches=2, sequences=2))
    np.testing.assert_allclose(parts.losses, once.losses, rtol=1e-4)


@both_families
def test_remat_changes_no_loss(model):
    rows = random_rows()
    expected = finetune(model, rows, options(method="full")).losses
    np.testing.assert_allclose(
        finetune(model, rows, options(method="full", remat=True)).losses, expected, rtol=1e-5
    )


@both_families
@pytest.mark.parametrize("method", ["lora", "full"])
def test_bfloat16_follows_float32(model, method):
    rows = random_rows()
    expected = finetune(model, rows, options(method=method)).losses
    losses = finetune(model, rows, options(method=method, dtype="bfloat16")).losses
    np.testing.assert_allclose(losses, expected, rtol=0.05)


def test_weights_of_zero_leave_rows_out(model):
    rows = random_rows()
    keep = np.arange(20) % 2 == 0
    one_step = options(sequences=20, epochs=1)
    expected = finetune(model, rows.take(np.flatnonzero(keep)), one_step).losses
    actual = finetune(model, rows, one_step, weights=keep.astype(np.float64)).losses
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_the_rate_rises_to_its_highest_and_falls_towards_zero():
    rates = learning_rates(0.1, 0.2, 50)
    assert rates.argmax() == 10
    assert rates.max() == pytest.approx(0.1)
    assert (np.diff(rates[:11]) > 0).all()
    assert (np.diff(rates[10:]) < 0).all()
    assert 0 < rates[-1] < 0.001


def test_one_compiled_program_for_all_steps_and_runs(model):
    from fisher_jax.training.finetune import _step

    finetune(model, random_rows(), options())
    before = _step._cache_size()
    finetune(model, random_rows(seed=1), options(learning_rate=0.02, epochs=3))
    assert _step._cache_size() == before


def test_early_stopping_keeps_the_best(model):
    rows = random_rows()
    losses = iter([3.0, 2.0, 5.0, 4.0, 9.0, 9.0])
    seen = []

    def validate(candidate):
        seen.append(nll_by_hand(candidate, rows))
        return next(losses)

    tuned = finetune(
        model, rows, options(epochs=20, validate_every=2, patience=2), validate=validate
    )
    assert tuned.validation == [(2, 3.0), (4, 2.0), (6, 5.0), (8, 4.0)]
    assert len(tuned.losses) == 8
    np.testing.assert_allclose(nll_by_hand(tuned.model, rows), seen[1], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "adapter"}, "method must be one of full, lora, last_layer"),
        ({"learning_rate": 0}, "learning_rate must be above 0"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1"),
        ({"epochs": 1.5}, "epochs must be a whole number of at least 1, got 1.5"),
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"warmup": 1}, "warmup must be"),
        ({"rank": 0}, "rank must be a whole number of at least 1"),
        ({"clip": 0}, "clip must be above 0"),
    ],
)
def test_wrong_options_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        finetune(language_model(), random_rows(), options(**change))


def test_a_loss_that_is_no_number_ends_the_training():
    model = language_model()
    graph, state = nnx.split(model.module)
    broken = jax.tree.map(lambda w: w * np.nan, state)
    model = model._replace(module=nnx.merge(graph, broken))
    with pytest.raises(
        DivergedError, match=r"the loss of step 1 is nan: lower learning_rate 0\.01"
    ):
        finetune(model, random_rows(), options())


class WatchedSteps:
    """Training steps; of each loss `waited` and `read` say after how many begun steps it was."""

    def __init__(self, monkeypatch, broken=0):
        self.step, self.broken = finetune_module._step, broken
        self.begun, self.waited, self.read = 0, [], []
        monkeypatch.setattr(finetune_module, "_step", self)

    def __call__(self, *args):
        state, loss = self.step(*args)
        self.begun += 1
        return state, WatchedLoss(self, loss * np.nan if self.begun == self.broken else loss)


class WatchedLoss:
    def __init__(self, steps, loss):
        self.steps, self.loss = steps, loss

    def block_until_ready(self):
        self.steps.waited.append(self.steps.begun)

    def __array__(self, *_, **__):
        self.steps.read.append(self.steps.begun)
        return np.asarray(self.loss)

    def __float__(self):
        return float(np.asarray(self))


def test_losses_are_read_in_blocks(model, monkeypatch, device):
    """Before a validation and at the end; a clock that stands still asks for no report."""
    device(in_flight=2)
    monkeypatch.setattr(finetune_module, "REPORT_SECONDS", np.inf)
    rows, given, told = random_rows(), options(epochs=3, validate_every=4), []
    expected = finetune(model, rows, given).losses
    steps, n = WatchedSteps(monkeypatch), len(expected)
    tuned = finetune(model, rows, given, on_step=lambda *step: told.append(step))
    np.testing.assert_array_equal(tuned.losses, expected)
    assert n > 8 and steps.read == [min(n, -(-k // 4) * 4) for k in range(1, n + 1)]
    assert told == [(k, n, loss) for k, loss in enumerate(expected.tolist(), start=1)]


@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_only_steps_that_are_done_are_reported_between(model, monkeypatch, device, in_flight):
    device(in_flight=in_flight)
    monkeypatch.setattr(finetune_module, "REPORT_SECONDS", 0)
    steps = WatchedSteps(monkeypatch)
    n = len(finetune(model, random_rows(), options()).losses)
    assert n > 4 and steps.waited == [*range(in_flight, n + 1)]
    assert steps.read == [min(n, k + in_flight - 1) for k in range(1, n + 1)]


def test_a_loss_that_is_no_number_is_told_with_its_step(model, monkeypatch, device):
    device(in_flight=2)
    monkeypatch.setattr(finetune_module, "REPORT_SECONDS", np.inf)
    WatchedSteps(monkeypatch, broken=3)
    told = []
    with pytest.raises(DivergedError, match="the loss of step 3 is nan"):
        finetune(model, random_rows(), options(), on_step=lambda step, *_: told.append(step))
    assert told == [1, 2]


def test_rows_and_weights_that_would_teach_nothing_are_refused(tmp_path):
    model, rows = language_model(), random_rows()
    learnt = [*rows.learnt]
    learnt[3] = np.zeros_like(learnt[3])  # a prompt that fills the row
    with pytest.raises(ValueError, match=r"row 3 has nothing to predict \(1 such rows\)"):
        finetune(model, rows._replace(learnt=learnt), options())
    weights = np.ones(len(rows.ids))
    with pytest.raises(ValueError, match="weights must be one a row"):
        finetune(model, rows, options(), weights=weights[1:])
    assert np.isfinite(finetune(model, rows, options(), weights=0 * weights).losses).all()
    for wrong in (-1, np.nan):
        weights[2] = wrong
        with pytest.raises(ValueError, match="weights must be at least 0, row 2 has"):
            finetune(model, rows, options(), weights=weights)
    with pytest.raises(ValueError, match="checkpoint_every must be a whole number"):
        finetune(model, rows, options(), checkpoints=tmp_path, checkpoint_every=0)


def test_a_mesh_that_does_not_divide_the_sequences_is_refused():
    mesh = Mesh(np.array(jax.devices()[:1]), ("model",))
    with pytest.raises(ValueError, match="mesh must have one axis 'data'"):
        finetune(language_model(), random_rows(), options(), mesh=mesh)


def test_eight_devices_give_the_losses_of_one():
    """And a run that is killed goes on to the same bytes. In a process of its own, since the
    number of devices is fixed at start."""
    here = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", _SHARDED],
        cwd=here,
        env=with_devices(8) | {"PYTHONPATH": str(here)},
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
from tests.helpers.tuning import language_model, nll_by_hand, options, random_rows

from fisher_jax.training.finetune import finetune

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


def test_steps_hold_the_same_rows_for_the_same_seed():
    rows = random_rows()
    first, again, other = (batches_of(rows, options(seed=s)) for s in (0, 0, 1))
    assert all((a.ids == b.ids).all() for a, b in zip(first, again, strict=True))
    assert any((a.ids != b.ids).any() for a, b in zip(first, other, strict=False))


@pytest.mark.parity
@pytest.mark.parametrize("name", MODELS)
def test_twenty_steps_follow_a_pytorch_loop(tmp_path, name):
    torch = pytest.importorskip("torch")
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    from fisher_jax.models.files.huggingface import load_folder
    from tests.helpers.random_models import GPT2_SIZES, LLAMA, save_random_reference

    if name == "llama":
        reference = LlamaForCausalLM(LlamaConfig(**LLAMA))
    else:
        zero = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        reference = GPT2LMHeadModel(GPT2Config(**GPT2_SIZES | zero))
    save_random_reference(reference, tmp_path)
    module, _ = load_folder(tmp_path, jnp.float32)
    rows = random_rows(n=60, prompt=1)
    given = options(method="full", learning_rate=1e-3, epochs=40, sequences=8)
    batches = batches_of(rows, given)[:20]
    model = LanguageModel("tiny", module, None, "w", "t")
    ours = finetune(model, rows, given).losses[:20]
    rates = learning_rates(given.learning_rate, given.warmup, len(batches_of(rows, given)))

    matrices = [p for p in reference.parameters() if p.ndim > 1]
    vectors = [p for p in reference.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": given.weight_decay},
         {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.999),
    )  # fmt: skip
    reference.train()
    theirs = []
    for batch, rate in zip(batches, rates, strict=False):
        losses, total = 0.0, float(batch.weights.sum())
        ids, _, segments, labels, weights = (part.reshape(-1, 16) for part in batch)
        for sequence in range(len(ids)):
            for segment in np.unique(segments[sequence][segments[sequence] > 0]):
                own = segments[sequence] == segment
                logits = reference(torch.tensor(ids[sequence][own][None]).long()).logits[0]
                nll = torch.nn.functional.cross_entropy(
                    logits, torch.tensor(labels[sequence][own]).long(), reduction="none"
                )
                losses = losses + (nll * torch.tensor(weights[sequence][own])).sum() / total
        optimizer.zero_grad()
        losses.backward()
        torch.nn.utils.clip_grad_norm_(reference.parameters(), given.clip)
        for g in optimizer.param_groups:
            g["lr"] = float(rate)
        optimizer.step()
        theirs.append(float(losses.detach()))
    assert theirs[-1] < theirs[0]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)
