"""Every variant of the language experiment chooses as it says."""

import jax
import numpy as np
import pytest
from flax import nnx

from experiments.language.preparation import first_layers
from experiments.language.variants import VARIANTS, Candidates
from fisher_jax.data import Example
from fisher_jax.design.embeddings import TokenEmbeddings
from fisher_jax.models.load import LanguageModel, load_model
from fisher_jax.scoring import quality
from tests.helpers.random_models import forward, random_ids, random_model


@pytest.fixture(scope="module")
def candidates():
    rng = np.random.default_rng(0)
    rows = [" ".join(rng.choice(list("abcdefghijk"), 9)) for _ in range(30)]
    rows[7] = rows[3]
    lengths = rng.integers(1, 9, 30)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    hidden = TokenEmbeddings(rng.normal(size=(offsets[-1], 8)).astype(np.float32), offsets)
    targets = TokenEmbeddings(rng.normal(size=(12, 8)).astype(np.float32), np.arange(0, 13, 4))
    head = rng.normal(size=(50, 8)).astype(np.float32)
    earlier = {
        share: [
            TokenEmbeddings(abs(emb.tokens) ** (1 / share), emb.offsets)
            for emb in (hidden, targets)
        ]
        for share in (0.25, 0.5, 0.75)
    }
    labels = rng.integers(50, size=offsets[-1])
    return Candidates(rows, hidden, head, labels, targets, earlier=earlier.__getitem__)


LEFT_OUT = {"ask_llm", "ifd"}  # need a model, see the next test


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - LEFT_OUT - {"task_rows"}))
def test_every_variant_keeps_to_its_budget(candidates, name):
    lengths = candidates.hidden.lengths
    by_tokens = candidates.choose(name, n=8, equal="tokens", seed=0)
    assert 0 < lengths[by_tokens.rows].sum() <= 8 * lengths.mean()
    by_examples = candidates.choose(name, n=8, equal="examples", seed=0)
    assert len(by_examples.rows) == len(set(by_examples.rows)) == 8


def test_rows_of_the_task_are_taken_as_the_budget_allows(candidates):
    mean = candidates.costs.mean()
    for equal, n, expected in [
        ("examples", 2, 2), ("examples", 9, 3), ("tokens", 30, 3), ("tokens", 9.9 / mean, 2),
    ]:  # fmt: skip
        chosen = candidates.choose("task_rows", n=n, equal=equal, seed=0)  # three rows of 4 tokens
        assert chosen.of_task and len(set(chosen.rows)) == len(chosen.rows) == expected
    of_pool = candidates.choose("uniform", n=2, equal="examples", seed=0)
    assert chosen._replace(of_task=False).key != chosen.key and not of_pool.of_task


@pytest.mark.parametrize("name", sorted(LEFT_OUT))
def test_variants_that_read_the_rows_again_rank_by_the_models_word(candidates, model_folder, name):
    model = load_model(str(model_folder))
    rng = np.random.default_rng(1)
    words = [w for w in model.tokenizer.get_vocab() if w != "<unk>"]
    rows = [Example(*(" ".join(rng.choice(words, 5)) for _ in "pc")) for _ in range(30)]
    labels = np.zeros(len(candidates.hidden.tokens), int)
    reading = Candidates(
        rows, candidates.hidden, np.zeros((1, 8)), labels, candidates.targets, model
    )
    chosen = reading.choose(name, n=6, equal="examples", seed=0).rows
    values = getattr(quality, name)(model, rows)
    if name == "ifd":
        assert np.sum(values < 1) >= 6
        values[values > 1] = -np.inf
    assert chosen.tolist() == np.argsort(-values, kind="stable")[:6].tolist()


def test_filters_leave_one_of_two_equal_rows(candidates):
    assert 7 not in candidates.kept("exact") and 3 in candidates.kept("exact")
    assert set(candidates.kept("plain")) < set(candidates.kept("near")) <= set(range(30)) - {7}
    losses = candidates.inputs["losses"]
    assert losses[candidates.kept("plain")].max() <= np.quantile(losses, 0.75)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_first_layers_are_a_model_whose_later_ones_do_nothing(name):
    model = LanguageModel(name, random_model(name), lambda: None, "", "")
    ids = random_ids(2, 12)
    whole, half = forward(model.module, ids), forward(first_layers(model, 0.5).module, ids)
    assert np.abs(whole - half).max() > 0.1
    np.testing.assert_array_equal(forward(model.module, ids), whole)
    for linear in (model.module.layers.output, model.module.layers.down):
        nnx.update(linear, jax.tree.map(lambda x: x.at[1:].set(0), nnx.state(linear)))
    np.testing.assert_allclose(half, forward(model.module, ids), rtol=1e-5, atol=1e-5)


def test_variants_of_earlier_layers_see_their_states(candidates):
    pool, targets = candidates.features_of("layers_0.5")
    squares = candidates.hidden.tokens**2  # what the fixture has half-way
    scale = np.sqrt(np.mean(np.sum(squares**2, axis=1)))
    np.testing.assert_allclose(pool.tokens, squares / scale, rtol=1e-5)
    np.testing.assert_allclose(targets.tokens, candidates.targets.tokens**2 / scale, rtol=1e-5)
