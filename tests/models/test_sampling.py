"""Draws of a token: seeds, the nucleus, frequencies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fisher_jax.models.generate import Sampling, draw_token, generate_ids, nucleus_edge
from tests.helpers.generation import greedy, next_logits, random_model, random_prompts


@pytest.fixture(scope="module")
def llama():
    return random_model("llama")


def sampled(model, prompts, **options):
    return greedy(model, prompts, **{"temperature": 1.0, **options})


def assert_frequencies(counts, probabilities):
    """A chi-square test at a level that a right sampler fails once in 10,000 seeds."""
    possible = probabilities > 0
    assert (counts[~possible] == 0).all()
    expected = np.asarray(probabilities, np.float64)[possible]
    expected *= counts.sum() / expected.sum()
    assert stats.chisquare(counts[possible], expected).pvalue > 1e-4


def test_of_equal_logits_the_lowest_id_is_taken():
    logits = jnp.asarray([1.0, 3.0, 2.0, 3.0])
    assert draw_token(jax.random.key(0), logits, Sampling()) == 1


def test_same_seed_same_tokens_and_another_seed_others(llama):
    prompts = random_prompts()
    first = sampled(llama, prompts, seed=3)
    assert sampled(llama, prompts, seed=3) == first
    other = sampled(llama, prompts, seed=4)
    assert all(a != b for a, b in zip(first, other, strict=True))
    assert first != greedy(llama, prompts)


def test_equal_prompts_are_drawn_apart(llama):
    rows = sampled(llama, random_prompts([17]) * 7)
    assert len({tuple(row) for row in rows}) == 7


def test_draws_depend_on_no_other_row(llama):
    prompts = random_prompts()
    rows = sampled(llama, prompts)
    assert sampled(llama, prompts, batch_size=1) == rows
    others = random_prompts([2, 30, 1, 11, 7, 5, 9])  # of another order by length
    others[3] = prompts[3]
    assert sampled(llama, others)[3] == rows[3]


def draws(logits, sampling, n):
    keys = jax.random.split(jax.random.key(0), n)
    draw = jax.jit(jax.vmap(lambda key, x: draw_token(key, x, sampling), in_axes=(0, None)))
    return np.asarray(draw(keys, jnp.asarray(logits, jnp.float32)))


@pytest.mark.parametrize(
    "sampling", [Sampling(2.0, top_k=1), Sampling(2.0, top_p=1e-6), Sampling(1e-40), Sampling(0)]
)
def test_narrow_sampling_takes_the_likeliest(sampling):
    logits = np.random.default_rng(4).normal(size=500)
    assert set(draws(logits, sampling, 100).tolist()) == {logits.argmax()}


def test_all_of_the_probability_is_plain_sampling():
    logits = np.random.default_rng(4).normal(size=50)
    plain = draws(logits, Sampling(2.0), 100)
    np.testing.assert_array_equal(draws(logits, Sampling(2.0, top_p=1), 100), plain)


def allowed_probabilities(logits, temperature=1.0, top_k=None, top_p=None):
    """By sorting, in float64."""
    p = np.exp((logits - logits.max()) / temperature)
    order = np.argsort(-p, kind="stable")
    if top_k is not None:
        p[order[top_k:]] = 0
    p /= p.sum()
    if top_p is not None:
        n = int(np.searchsorted(np.cumsum(p[order]), top_p)) + 1
        p[order[n:]] = 0
    return p / p.sum()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 3.0, "top_k": 4},
        {"top_p": 0.7},
        {"temperature": 2.0, "top_k": 6, "top_p": 0.8},
        {"top_k": 50},
    ],
)
def test_frequencies_are_the_softmax_probabilities(options):
    logits = np.random.default_rng(2).normal(0, 1.5, 12)
    tokens = draws(logits, Sampling(**{"temperature": 1.0, **options}), 20_000)
    expected = allowed_probabilities(logits, **options)
    assert_frequencies(np.bincount(tokens, minlength=12), expected)


def test_two_tokens_in_a_row_have_the_model_s_joint_probabilities():
    model = random_model("five words", scale=0.5)
    prompt = [1, 4, 2]
    rows = generate_ids(
        model, [prompt] * 4000, max_new_tokens=2, temperature=0.8, batch_size=2000, seed=1
    )
    first = allowed_probabilities(next_logits(model, prompt), 0.8)
    joint = np.concatenate(
        [first[a] * allowed_probabilities(next_logits(model, [*prompt, a]), 0.8) for a in range(5)]
    )
    pairs = np.asarray(rows) @ [5, 1]
    assert_frequencies(np.bincount(pairs, minlength=25), joint)


@pytest.mark.parametrize("top_p", [1e-9, 0.1, 0.5, 0.9, 0.999])
def test_nucleus_is_the_smallest_set_that_reaches_p(top_p):
    p = jax.nn.softmax(jnp.asarray(np.random.default_rng(3).normal(0, 3, 5000), jnp.float32))
    edge = float(jax.jit(nucleus_edge, static_argnums=1)(p, top_p))
    p = np.asarray(p, np.float64)
    n = int(np.searchsorted(np.cumsum(np.sort(p)[::-1]), top_p)) + 1
    assert (p >= edge).sum() == n
    assert edge == np.sort(p)[::-1][n - 1]


def test_nucleus_of_everything():
    p = jnp.asarray([0.0, 0.25, 0.75])
    assert nucleus_edge(p, 1) <= 0.25
    assert nucleus_edge(jnp.asarray([0.0, 1.0]), 1.0) == 1
