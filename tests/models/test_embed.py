import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from flax import nnx

from fisher_jax.data import Example
from fisher_jax.models import embed as embed_module
from fisher_jax.models.activations import activation_bytes
from fisher_jax.models.decoder import RotaryDecoder
from fisher_jax.models.embed import check_rows, embed, forward
from fisher_jax.models.load import load_model
from fisher_jax.models.tokenize import shown, tokenize
from tests.helpers.word_folder import CONTEXT, DIM, PAIRS, SPECIAL, TEXTS, WORDS, save_folder

pytestmark = pytest.mark.optimised


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_folder(tmp_path_factory.mktemp("words"), adds_bos=False)


@pytest.fixture(scope="module")
def model(folder):
    return load_model(str(folder))


@pytest.fixture(scope="module")
def bos_model(tmp_path_factory):
    return load_model(str(save_folder(tmp_path_factory.mktemp("bos"), adds_bos=True)))


def ids_of(text):
    return [(SPECIAL + WORDS).index(word) for word in text.split()]


@nnx.jit
def forward_alone(module, ids_1xT):
    return module(ids_1xT)


def states(model, ids, first=1):
    """One row alone and unpadded: the states that predict `ids[first:]`."""
    return np.asarray(forward_alone(model.module, jnp.asarray([ids])))[0, first - 1 : -1]


def assert_same(actual, expected, atol=1e-5):
    np.testing.assert_array_equal(actual.offsets, expected.offsets)
    np.testing.assert_allclose(actual.tokens, expected.tokens, rtol=0, atol=atol)


def test_embeddings_equal_each_row_alone(folder, model):
    embeddings = embed(TEXTS, str(folder), normalize="none")
    assert embeddings.tokens.dtype == np.float32
    assert embeddings.dim == DIM
    assert len(embeddings) == len(TEXTS)
    for i, text in enumerate(TEXTS):
        row = embeddings[i]
        assert len(row) == len(text.split()) - 1  # the last token predicts nothing
        np.testing.assert_allclose(row, states(model, ids_of(text)), rtol=0, atol=1e-5)


def test_only_completion_tokens_of_a_pair_are_predicted(model):
    embeddings = embed([*PAIRS, "to be or not to be"], model, normalize="none")
    np.testing.assert_array_equal(embeddings.lengths, [2, 3, 5, 5])
    for i, pair in enumerate(PAIRS):
        prompt, completion = ids_of(pair["prompt"]), ids_of(pair["completion"])
        expected = states(model, prompt + completion, max(1, len(prompt)))
        np.testing.assert_allclose(embeddings[i], expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(embeddings[0], embeddings[3][3:], rtol=0, atol=1e-5)


def test_tokens_are_the_tokenizers_own_with_its_special_ones(bos_model):
    rows = tokenize(bos_model, ["to be", Example(" or not", "to be"), "or"])
    assert [ids.tolist() for ids in rows.ids] == [
        [1, *ids_of("to be")],
        [1, *ids_of("to be or not")],  # none before the completion
        [1, *ids_of("or")],
    ]
    assert [label.tolist() for label in rows.labels] == [ids_of("to be"), ids_of("or not"), [2 + 2]]
    assert rows.counted.tolist() == [2, 2, 1]
    embeddings = embed(["to be", {"prompt": "to be", "completion": " or not"}], bos_model)
    np.testing.assert_array_equal(embeddings.lengths, [2, 2])


def test_an_empty_prompt_after_a_special_token_predicts_the_whole_completion(bos_model):
    rows = tokenize(bos_model, [Example("to be or", "")])
    assert rows.ids[0].tolist() == [1, *ids_of("to be or")]
    assert rows.counted.tolist() == [3]


def test_prompt_and_completion_have_the_tokens_of_the_joint_text(model):
    rows = tokenize(model, [Example("e or", "to b"), Example(" be", "to")])
    assert [ids.tolist() for ids in rows.ids] == [ids_of("to be or"), ids_of("to be")]
    assert [labels.tolist() for labels in rows.labels] == [ids_of("be or"), ids_of("be")]


def test_the_end_is_learnt_where_a_completion_has_none(model):
    tokenizer = model.tokenizer
    tokenizer.add_special_tokens({"eos_token": "[BOS]"})  # any token does
    try:
        rows = ["to be", Example(" be", "to"), Example(" be[BOS]", "to"), Example("", "to")]
        ends = {
            how: [ids.tolist().count(1) for ids in tokenize(model, rows, eos=how).ids]
            for how in (None, True, False)
        }
        assert ends == {None: [0, 1, 1, 0], True: [1, 1, 1, 0], False: [0, 0, 1, 0]}
        assert tokenize(model, rows).counted.tolist() == [1, 2, 2, 0]
        cut = tokenize(model, [Example(" be or", "to")], 3)
        assert cut.ids[0].tolist() == ids_of("to be or") and cut.cut.all()
    finally:
        tokenizer.eos_token = None


def test_a_beginning_that_the_text_brings_is_not_doubled(bos_model):
    rows = tokenize(bos_model, ["[BOS] to be", "to be"])
    assert [ids.tolist() for ids in rows.ids] == [[1, *ids_of("to be")]] * 2


def test_positions_count_what_they_say(model):
    pair = Example(" or not", "to be")
    counted = {
        positions: tokenize(model, [pair], positions=positions).counted.tolist()
        for positions in ("completion", "all", "prompt")
    }
    assert counted == {"completion": [2], "all": [3], "prompt": [2]}
    with pytest.raises(ValueError, match="row 0 has no prompt"):
        tokenize(model, ["to be"], positions="prompt")
    assert shown(model, tokenize(model, [pair]), 0) == "to be⟦or not⟧"


def test_max_length_cuts_rows(model):
    texts = [TEXTS[0], TEXTS[2], "to be", "in the mind", Example(" or not", "to be")]
    rows = tokenize(model, texts, 3)
    assert [ids.tolist() for ids in rows.ids] == [
        ids_of("to be or"),
        ids_of("whether tis nobler"),
        ids_of("to be"),
        ids_of("in the mind"),  # as long as allowed
        ids_of("to be or"),
    ]
    assert rows.cut.sum() == 3
    cut = embed(TEXTS, model, max_length=3, normalize="none")
    whole = embed(TEXTS, model, normalize="none")
    np.testing.assert_array_equal(cut.lengths, np.minimum(whole.lengths, 2))
    for i in range(len(TEXTS)):
        np.testing.assert_allclose(cut[i], whole[i][:2], rtol=0, atol=1e-5)


def test_rows_longer_than_the_context_are_cut_to_it(model):
    embeddings = embed([" ".join(WORDS * 4), "to be"], model)
    np.testing.assert_array_equal(embeddings.lengths, [CONTEXT - 1, 1])


def test_a_token_that_the_model_does_not_know_is_refused(model):
    config = model.module.config
    module = SimpleNamespace(config=config._replace(vocab=ids_of("or")[0]))
    smaller = model._replace(module=module)
    with pytest.raises(ValueError, match=r"row 1 has token \d+, outside the vocabulary"):
        tokenize(smaller, ["to", "to be or"])


@pytest.mark.parametrize("max_length", [1, 0, CONTEXT + 1])
def test_max_length_out_of_range_is_refused(model, max_length):
    with pytest.raises(ValueError, match=f"max_length must be from 2 to {CONTEXT}"):
        embed(TEXTS, model, max_length=max_length)


@pytest.mark.parametrize("batch_tokens", [1, 20])
def test_batch_size_does_not_change_embeddings(model, batch_tokens):
    rows = [*TEXTS, *PAIRS]
    assert_same(
        embed(rows, model, batch_tokens=batch_tokens, normalize="none"),
        embed(rows, model, normalize="none"),
    )


def test_batches_in_flight_give_the_same_bytes(model, device, monkeypatch):
    """The second is begun before the first is fetched, and never a third."""
    events = []

    def begun(*args):
        events.append("begun")
        return forward_pass(*args)

    forward_pass = embed_module.hidden_states
    monkeypatch.setattr(embed_module, "hidden_states", begun)

    def run():
        events.clear()
        return embed(
            [*TEXTS, *PAIRS],
            model,
            batch_tokens=20,
            normalize="none",
            on_progress=lambda _: events.append("fetched"),
        ).tokens

    device(in_flight=1)
    expected = run()
    n_batches = len(events) // 2
    assert n_batches > 2 and events == ["begun", "fetched"] * n_batches
    device(in_flight=2)
    np.testing.assert_array_equal(run(), expected)
    assert events == ["begun", *["begun", "fetched"] * (n_batches - 1), "fetched"]


@pytest.mark.parametrize(("words", "fetched"), [(2, 2), (3, 4), (8, 8), (9, 16)])
def test_few_counted_positions_are_gathered_on_the_device(model, monkeypatch, words, fetched):
    """Of a row of 16 fed tokens the last few count."""
    sizes = []
    counted = embed_module._counted

    def watched(*args):
        hidden, at = counted(*args)
        sizes.append(hidden.size // DIM)
        return hidden, at

    monkeypatch.setattr(embed_module, "_counted", watched)
    ids = (WORDS * 2)[:17]
    pair = {"prompt": " ".join(ids[:-words]), "completion": " " + " ".join(ids[-words:])}
    got = embed([pair], model, normalize="none")
    expected = states(model, ids_of(" ".join(ids)), 17 - words)
    np.testing.assert_allclose(got.tokens, expected, rtol=0, atol=1e-5)
    assert sizes == [fetched]


def test_a_length_is_compiled_only_where_it_saves_more(model, device):
    fed = np.repeat([4, 8, 16], [40, 10, 10])
    operations = 2 * model.n_parameters
    for tokens, steps in ((0, [4, 8, 16]), (79, [4, 8, 16]), (81, [4, 16])):
        device(compile_cost=operations * tokens)
        assert embed_module._padded_lengths(model, fed).tolist() == steps
    device(compile_cost=operations * 1e6)
    assert embed_module._padded_lengths(model, fed).tolist() == [16]


def test_batches_stay_within_an_eighth_of_the_devices_memory(model, monkeypatch, device_memory):
    of_row = 16 * activation_bytes(model.module.config, 16)
    shapes = []
    forward_pass = embed_module.hidden_states

    def watched(graph, weights, ids_BxT):
        shapes.append(ids_BxT.shape)
        return forward_pass(graph, weights, ids_BxT)

    monkeypatch.setattr(embed_module, "hidden_states", watched)
    for rows, eighth in ((6, 6.5 * of_row), (3, 3.5 * of_row), (1, 0.5 * of_row)):
        device_memory(8 * eighth)
        shapes.clear()
        embed([TEXTS[2]] * 6, model)
        assert shapes == [(rows, 16)] * (6 // rows)


def test_order_of_rows_does_not_change_embeddings(model):
    rows = [*TEXTS, *PAIRS]
    order = np.random.default_rng(0).permutation(len(rows))
    embeddings = embed(rows, model)
    shuffled = embed([rows[i] for i in order], model)
    for place, i in enumerate(order):
        np.testing.assert_allclose(shuffled[place], embeddings[i], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "i"),
    [
        (["to be", "to"], 1),
        (["to be", "to be", ""], 2),
        ([{"prompt": "to be", "completion": ""}, "to be"], 0),
        (["to be", {"prompt": "to be or not", "completion": " to be"}], 1),  # cut away
    ],
)
def test_a_row_with_nothing_to_predict_is_named(model, rows, i):
    with pytest.raises(ValueError, match=f"row {i} has nothing to predict"):
        embed(rows, model, max_length=4)


def test_a_row_of_one_token_has_no_embeddings_and_hurts_no_other(model):
    seen, texts = [], ["be", "to be or not", "mind", "that is the question"]
    rows = tokenize(model, texts)
    assert rows.counted.tolist() == [0, 3, 0, 3]
    states = forward(model, rows, on_progress=seen.append)
    np.testing.assert_array_equal(states, forward(model, tokenize(model, texts[1::2])))
    assert seen[-1] == 4
    assert forward(model, tokenize(model, ["be", "mind"])).shape == (0, DIM)


def test_a_row_without_a_completion_is_named(model):
    with pytest.raises(ValueError, match=r"texts: row 1 has no column 'text', .* it has 'prompt'"):
        embed(["to be", {"prompt": "to be"}], model)


def test_one_string_is_refused_before_any_work():
    with pytest.raises(ValueError, match="texts must be a list of rows, got one str"):
        embed("a b", "no model")


def test_columns_are_no_rows():
    for table in ({"text": ["a b"]}, pd.DataFrame({"text": ["a b"]})):
        with pytest.raises(ValueError, match=r"got one \w+: .*of a table pass the column's values"):
            check_rows(table)


def test_rows_and_models_may_come_as_they_do_on_disk(model, tmp_path):
    folder = save_folder(tmp_path / "words", adds_bos=True)
    expected = embed(["to be or", "not to"], str(folder))
    got = embed([{"text": "to be or", "id": 7}, {"text": "not to"}], folder)
    np.testing.assert_array_equal(got.tokens, expected.tokens)


def test_no_rows_are_refused(model):
    with pytest.raises(ValueError, match="no rows"):
        embed([], model)


def test_batch_tokens_below_one_is_refused(model):
    with pytest.raises(ValueError, match="batch_tokens must be at least 1, got 0"):
        embed(TEXTS, model, batch_tokens=0)


def test_normalize_and_center(model):
    raw = embed(TEXTS, model, normalize="none").tokens
    scaled = embed(TEXTS, model).tokens
    np.testing.assert_allclose((scaled**2).sum(axis=1).mean(), 1, rtol=1e-5)
    scale = np.sqrt((raw**2).sum(axis=1).mean())
    assert abs(scale - 1) > 0.1
    np.testing.assert_allclose(scaled, raw / scale, rtol=1e-4, atol=1e-6)

    centred = embed(TEXTS, model, normalize="none", center=True).tokens
    assert np.abs(raw.mean(axis=0)).max() > 0.01
    np.testing.assert_allclose(centred, raw - raw.mean(axis=0), rtol=0, atol=1e-5)

    unit = embed(TEXTS, model, normalize="unit").tokens
    norms = np.linalg.norm(raw, axis=1, keepdims=True)
    assert np.ptp(norms) > 0.01
    np.testing.assert_allclose(unit, raw / norms, rtol=1e-4, atol=1e-6)

    both = embed(TEXTS, model, center=True).tokens
    np.testing.assert_allclose(both.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose((both**2).sum(axis=1).mean(), 1, rtol=1e-5)


def test_progress_ends_at_the_number_of_rows(model):
    seen = []
    embed(TEXTS, model, batch_tokens=20, on_progress=seen.append)
    assert seen[-1] == len(TEXTS)
    assert len(seen) > 1
    assert (np.diff(seen) > 0).all()


def test_each_shape_is_compiled_once(tmp_path, monkeypatch, device):
    device(compile_cost=0)
    config_path = save_folder(tmp_path, adds_bos=False) / "config.json"
    raw = json.loads(config_path.read_text())
    config_path.write_text(json.dumps(raw | {"rope_theta": 77.0}))  # nothing of it compiled yet
    model = load_model(str(tmp_path))
    shapes = []
    forward = RotaryDecoder.__call__

    def traced(self, ids_BxT):
        shapes.append(ids_BxT.shape)
        return forward(self, ids_BxT)

    monkeypatch.setattr(RotaryDecoder, "__call__", traced)
    short, long = "to be or not", TEXTS[2]  # 3 and 15 tokens are fed, padded to 4 and 16
    rows = [short] * 8 + [long] * 5
    embed(rows, model, batch_tokens=32)
    assert sorted(shapes) == [(2, 16), (8, 4)]  # 5 rows in batches of 2, the last one padded
    embed(rows[::-1], model, batch_tokens=32)
    assert len(shapes) == 2


def test_bfloat16_by_name_gives_float32_embeddings_close_to_full_precision(folder):
    embeddings = embed(TEXTS[:2], str(folder), dtype="bfloat16")
    full = embed(TEXTS[:2], str(folder))
    assert embeddings.tokens.dtype == np.float32
    difference = np.linalg.norm(embeddings.tokens - full.tokens)
    assert 0 < difference < 0.05 * np.linalg.norm(full.tokens)
