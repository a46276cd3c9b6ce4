"""Trainings side by side are the trainings one by one."""

import jax
import numpy as np
import pytest
from flax import nnx

from fisher_jax.training.finetune import finetune
from fisher_jax.training.many import Job, _steps, finetune_many
from tests.helpers.tuning import language_model, options, random_rows

JOBS = [  # of unlike rows, numbers of steps, rates, orders and weights
    Job(random_rows(), 0.01, 0),
    Job(random_rows(n=9, seed=1), 0.02, 1),
    Job(random_rows(prompt=1), 0.005, 2, weights=np.linspace(0.5, 2, 20)),
]


@pytest.mark.parametrize(("method", "together"), [("lora", 2), ("full", 16), ("last_layer", 16)])
def test_jobs_trained_together_are_those_trained_one_by_one(method, together, device):
    device(trained_together=together)
    given, model = options(method=method, epochs=4), language_model()
    seen = []
    for trained in finetune_many(
        model, JOBS, given, lambda job, step, loss: seen.append((job.seed, step, loss))
    ):
        job = JOBS[trained.job]
        own = given._replace(learning_rate=job.learning_rate, seed=job.seed)
        alone = finetune(model, job.rows, own, weights=job.weights)
        assert trained.model is not None and len(trained.losses) == len(alone.losses)
        np.testing.assert_allclose(trained.losses[:20], alone.losses[:20], atol=1e-4)
        for got, expected in zip(
            *(jax.tree.leaves(nnx.state(x.module)) for x in (trained.model, alone.model)),
            strict=True,
        ):
            np.testing.assert_allclose(got, expected, atol=2e-3)
        assert trained.model.weights_sha256 == alone.model.weights_sha256
        told = [(step, loss) for seed, step, loss in seen if seed == job.seed]
        assert told == [*enumerate(trained.losses.tolist(), start=1)]
    assert {seed for seed, *_ in seen} == {0, 1, 2}


def test_a_job_that_diverges_leaves_the_others_alone(device):
    jobs = [JOBS[0], JOBS[0]._replace(learning_rate=1e30, seed=1), JOBS[0]._replace(seed=2)]
    of_kind = []
    for together in (1, 16):
        device(trained_together=together)
        found = {t.job: t for t in finetune_many(language_model(), jobs, options(epochs=3))}
        assert [found[k].model is None for k in range(3)] == [False, True, False]
        assert 1 <= len(found[1].losses) < len(found[0].losses)
        assert np.isfinite(found[1].losses).all()
        of_kind.append(found)
    for k in range(3):
        np.testing.assert_allclose(of_kind[0][k].losses, of_kind[1][k].losses, rtol=1e-4)


def test_all_trainings_of_a_setting_are_one_program(device):
    device(trained_together=2)
    given = options(method="lora", rank=3)  # of no other test
    others = [job._replace(learning_rate=0.03, seed=job.seed + 7) for job in JOBS]
    before = _steps._cache_size()
    for jobs in (JOBS, others):
        list(finetune_many(language_model(), jobs, given))  # the last lane of the second is empty
        assert _steps._cache_size() == before + 1


def test_memory_bounds_what_is_trained_together(device, device_memory, monkeypatch):
    device(trained_together=16)
    device_memory(1)
    monkeypatch.setattr("fisher_jax.training.many._steps", None)  # is not called
    assert len(list(finetune_many(language_model(), JOBS, options()))) == 3


def test_wrong_options_of_a_job_are_named():
    with pytest.raises(ValueError, match="learning_rate must be above 0"):
        list(finetune_many(language_model(), [JOBS[0]._replace(learning_rate=0)], options()))
    with pytest.raises(ValueError, match="weights must be one a row"):
        list(finetune_many(language_model(), [JOBS[0]._replace(weights=np.ones(3))], options()))
