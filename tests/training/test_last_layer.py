"""Training the last layer on states that are computed once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fisher_jax.training.last_layer import HeadOptions, nll, positions_of, train, trained_rows
from tests.helpers.random_models import VOCAB, random_model


@pytest.fixture(scope="module")
def head_problem():
    rng = np.random.default_rng(0)
    head = np.asarray(random_model("llama").head)
    x = rng.normal(size=(40, head.shape[1])).astype(np.float32)
    labels = rng.integers(0, 20, 40)
    return head, x, labels


def reference_nll(head, x, labels):
    logits = x.astype(np.float64) @ head.astype(np.float64).T
    total = np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1))
    return total + logits.max(axis=1) - logits[np.arange(len(x)), labels]


@pytest.mark.parametrize("trained", [np.arange(20), np.arange(5, 60), np.arange(VOCAB)])
def test_frozen_and_trained_rows_add_up_to_the_softmax(head_problem, trained, device):
    device(scored_tokens=16)  # of 40: three chunks, the last one padded
    head, x, labels = head_problem
    data = positions_of(head, trained, x, labels)
    actual = nll(jnp.asarray(head[trained]), data)
    np.testing.assert_allclose(actual, reference_nll(head, x, labels), rtol=1e-5, atol=1e-5)


def test_trained_rows_hold_all_labels_in_a_few_sizes():
    labels = np.array([5, 2000, 5, 7])
    rows = trained_rows(labels, 5000)
    assert len(rows) == 1024 and {5, 7, 2000} <= set(rows) and (np.diff(rows) > 0).all()
    assert len(trained_rows(labels, 3000 - 2500 + 1501)) == 1024
    assert len(trained_rows(np.arange(1025), 5000)) == 2048


def test_training_a_head_follows_the_gradient_of_its_rows(head_problem):
    head, x, labels = head_problem
    trained = np.arange(30)
    data = positions_of(head, trained, x, labels)
    rows = [np.arange(k, k + 4) for k in range(0, 20, 4)]  # the first half of the positions
    start = jnp.asarray(head[trained])
    theta, losses = train(start, data, rows, HeadOptions(0.05, epochs=20, batch_tokens=8))
    before, after = nll(start, data), nll(theta, data)
    assert after[:20].mean() < 0.5 * before[:20].mean()
    assert len(losses) == 50 and losses[-1] < 0.5 * losses[0]
    weights = np.array([1.0, 0, 0, 0, 0])
    alone, first = train(start, data, rows[:1], HeadOptions(0.05, epochs=1, batch_tokens=20))
    weighted, _ = train(start, data, rows, HeadOptions(0.05, epochs=1, batch_tokens=20), weights)
    assert first == pytest.approx([before[:4].mean()], rel=1e-5)
    np.testing.assert_allclose(weighted, alone, atol=1e-6)

    def loss(theta):
        all_rows = jnp.asarray(head).at[trained].set(theta)
        return jnp.mean(-jax.nn.log_softmax(x[:4] @ all_rows.T)[np.arange(4), labels[:4]])

    direction = np.sign(np.asarray(jax.grad(loss)(start)))
    moved = np.asarray(alone - start)
    assert (np.sign(moved) == -direction)[np.abs(moved) > 1e-3].all()


def test_steps_of_weights_of_zero_change_nothing(head_problem):
    head, x, labels = head_problem
    data = positions_of(head, np.arange(30), x, labels)
    rows, start = [np.arange(4), np.arange(4, 8)], jnp.asarray(head[:30])
    options = HeadOptions(0.05, epochs=1, batch_tokens=4, weight_decay=0.0)
    theta, _ = train(start, data, rows, options, np.zeros(2))
    np.testing.assert_array_equal(theta, start)
