import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fisher_jax.models.embed import embed, tokenize
from fisher_jax.scoring import scores
from fisher_jax.scoring.scores import TokenScores, token_scores
from tests.helpers.word_model import (
    PAIRS,
    TEXTS,
    ids_of,
    language_model,
    mean_loss,
    next_token,
    softmax,
)


@pytest.fixture(scope="module")
def model():
    return language_model()


@pytest.fixture(scope="module")
def problem():
    """Predictions from uniform to sure; every other label is the likeliest one."""
    rng = np.random.default_rng(0)
    head = rng.standard_normal((300, 8)).astype(np.float32)
    tokens = rng.standard_normal((61, 8)).astype(np.float32)
    tokens *= np.linspace(0, 8, 61, dtype=np.float32)[:, None]
    labels = rng.integers(0, 300, 61)
    labels[::2] = np.argmax(tokens @ head.T, axis=1)[::2]
    return head, tokens, labels


def expected_scores(head, tokens, labels):
    p = softmax(tokens.astype(np.float64) @ head.T.astype(np.float64))
    own = np.eye(len(head))[labels]
    others = np.where(np.arange(len(head)) == p.argmax(axis=1)[:, None], 0, p)
    off_top = others.sum(axis=1)
    off_label = np.where(own == 1, 0, p)
    return TokenScores(
        -np.log(np.sum(p * own, axis=1)),
        -np.sum(p * np.log(p), axis=1),
        off_top * (2 - off_top) - np.sum(others**2, axis=1),  # 1 - |p|^2 loses what is small
        np.sum(off_label**2, axis=1) + np.sum(off_label, axis=1) ** 2,
    )


def test_token_scores_are_those_of_the_full_softmax(problem):
    got, expected = token_scores(*problem, chunk=16), expected_scores(*problem)
    assert expected.fisher_trace_T.min() < 1e-6 < 0.9 < expected.fisher_trace_T.max()
    for name, a, b in zip(TokenScores._fields, got, expected, strict=True):
        assert a.shape == (61,)
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-9, err_msg=name)


def test_the_shortcuts_of_the_reference_are_the_definitions(problem):
    head, tokens, labels = problem
    p = softmax(tokens.astype(np.float64) @ head.T.astype(np.float64))
    expected = expected_scores(*problem)
    np.testing.assert_allclose(expected.fisher_trace_T, 1 - np.sum(p**2, axis=1), atol=1e-12)
    np.testing.assert_allclose(
        expected.gradient_T, np.sum((p - np.eye(len(head))[labels]) ** 2, axis=1), atol=1e-12
    )


def test_chunks_share_one_program_and_change_nothing(problem):
    head, tokens, labels = problem
    whole = token_scores(*problem)
    for n in (1, 61):
        scores._score.clear_cache()
        done = []
        part = token_scores(head, tokens[:n], labels[:n], 7, done.append)
        assert done == [*range(7, n, 7), n]
        for a, b in zip(part, whole, strict=True):
            np.testing.assert_allclose(a, b[:n], rtol=1e-5)
        assert scores._score._cache_size() == 1


def test_chunks_are_the_devices(problem, device, device_memory):
    head, tokens, labels = problem
    device(scored_tokens=25)
    device_memory(8 * 12 * len(head) * 30)
    done = []
    token_scores(head, tokens[:61], labels[:61], on_progress=done.append)
    assert done == [25, 50, 61]
    device_memory(8 * 12 * len(head) * 20)  # for 20 tokens' logits, three times
    done.clear()
    token_scores(head, tokens[:61], labels[:61], on_progress=done.append)
    assert done == [20, 40, 60, 61]


def test_no_tokens_have_no_scores(problem):
    head, tokens, labels = problem
    assert [len(a) for a in token_scores(head, tokens[:0], labels[:0])] == [0] * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels_T": np.full(61, 300)}, "labels must be from 0 to 299"),
        ({"labels_T": np.full(61, -1)}, "labels must be from 0 to 299"),
        ({"chunk": 0}, "chunk must be at least 1"),
    ],
)
def test_wrong_tokens_are_refused(problem, change, message):
    head, tokens, labels = problem
    with pytest.raises(ValueError, match=message):
        token_scores(**{"head_LxD": head, "tokens_TxD": tokens, "labels_T": labels} | change)


def test_top_probabilities_are_the_largest_and_bound_what_is_left_out(problem):
    head, tokens, _ = problem
    p = softmax(tokens.astype(np.float64) @ head.T.astype(np.float64))
    values, labels = scores.top_probabilities(head, tokens, k=4, chunk=16)
    np.testing.assert_allclose(values, -np.sort(-p, axis=1)[:, :4], rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(np.take_along_axis(p, labels, 1), values, rtol=1e-4, atol=1e-9)
    left_out = np.sum(p**2, axis=1) - np.sum(values**2, axis=1)
    kept = values.sum(axis=1)
    assert (left_out <= kept * (1 - kept) / 4 + 1e-6).all()
    assert left_out.max() > 1e-3
    with pytest.raises(ValueError, match="k must be from 1 to 300"):
        scores.top_probabilities(head, tokens, k=301)


@pytest.mark.parametrize("rows", [TEXTS[:1] + TEXTS[2:], PAIRS])
def test_labels_belong_to_the_embeddings_and_their_losses_to_the_rows(model, rows):
    tokenized = tokenize(model, rows)
    emb = embed(rows, model, normalize="none")
    labels = scores.labels_of(tokenized)
    losses = scores.row_means(
        token_scores(model.module.head, emb.tokens, labels).nll_T, emb.offsets
    )
    for i, row in enumerate(rows):
        prompt, text = ("", row) if isinstance(row, str) else (row.prompt, row.completion)
        first = max(1, len(ids_of(prompt)))
        ids = ids_of(f"{prompt} {text}")
        assert labels[emb.offsets[i] : emb.offsets[i + 1]].tolist() == ids[first:]
        np.testing.assert_allclose(losses[i], mean_loss(next_token(model, ids), ids, first), 1e-4)


def test_row_means_refuse_offsets_that_do_not_fit():
    np.testing.assert_allclose(
        scores.row_means(np.arange(5, dtype=np.float32), np.array([0, 2, 5])), [0.5, 3]
    )
    for offsets, message in (([0, 2, 4], "from 0 to 5"), ([0, 2, 2, 5], "row 1 has no tokens")):
        with pytest.raises(ValueError, match=message):
            scores.row_means(np.ones(5), np.array(offsets))


def test_el2n_and_gradient_norms_are_those_of_the_heads_gradient(problem):
    head, tokens, labels = problem
    tokens = tokens[:9] + 0.3
    labels = labels[:9]
    offsets = np.array([0, 4, 9])

    def nll(theta_LxD, x_D, y):
        return -jax.nn.log_softmax(theta_LxD @ x_D)[y]

    of_head = [jax.grad(nll)(jnp.asarray(head), x, y) for x, y in zip(tokens, labels, strict=True)]
    of_logits = [
        jax.grad(lambda z, y=y: -jax.nn.log_softmax(z)[y])(jnp.asarray(head @ x))
        for x, y in zip(tokens, labels, strict=True)
    ]
    got = token_scores(head, tokens, labels)
    for values, gradients in (
        (scores.gradient_norms(got, tokens, offsets), of_head),
        (scores.el2n(got, offsets), of_logits),
    ):
        norms = [float(np.linalg.norm(np.asarray(g))) for g in gradients]
        np.testing.assert_allclose(values, [np.mean(norms[:4]), np.mean(norms[4:])], rtol=1e-4)
