import jax
import numpy as np
import pytest

import fisher_jax as fj
from fisher_jax import TokenEmbeddings
from fisher_jax.design.embeddings import aligned
from tests.helpers.references import f, random_pool


def test_from_list_is_ragged_and_gives_its_examples_back():
    examples = random_pool(0, 7, [1, 2, 5], 3)
    emb = TokenEmbeddings.from_list(examples)
    assert len(emb) == 7
    assert emb.dim == 3
    assert emb.tokens.shape == (sum(map(len, examples)), 3)
    for i, x in enumerate(examples):
        np.testing.assert_array_equal(emb[i], x)
    np.testing.assert_array_equal(emb[-1], examples[-1])


def test_tokens_are_not_copied():
    tokens = np.ones((4, 2), np.float32)
    assert np.shares_memory(TokenEmbeddings(tokens, np.array([0, 1, 4])).tokens, tokens)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float16", "float32"), ("float32", "float32"), ("float64", "float64"), ("int32", "float32")],
)
def test_number_types(dtype, expected):
    assert TokenEmbeddings(np.ones((2, 2), dtype), np.array([0, 2])).tokens.dtype == expected


@pytest.mark.parametrize(
    ("tokens", "offsets", "message"),
    [
        (np.ones(3), [0, 3], "shape"),
        (np.ones((3, 2)), [0.0, 3.0], "integers"),
        (np.ones((3, 2)), [0], "offsets"),
        (np.ones((3, 2)), [0, 2], "from 0 to"),
        (np.ones((3, 2)), [0, 1, 1, 3], "example 1 has no tokens"),
        (np.ones((3, 2)), [0, 2, 1, 3], "example 1 has no tokens"),
        (np.array([[1.0, 2], [np.nan, 1], [1, 1]]), [0, 1, 3], "example 1 has a non-finite"),
        (np.array([[1.0, 2], [2, 1], [1, np.inf]]), [0, 1, 3], "example 1 .*row 2"),
    ],
)
def test_bad_input_names_the_example_and_the_remedy(tokens, offsets, message):
    with pytest.raises(ValueError, match=message):
        TokenEmbeddings(tokens, np.asarray(offsets))


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "empty"),
        ([np.ones((2, 3)), np.ones((2, 4))], "example 1 has shape"),
        ([np.ones((2, 3)), np.ones(4)], "example 1 has shape"),
        ([np.ones((2, 3)), np.ones((0, 3))], "example 1 has no tokens"),
    ],
)
def test_from_list_errors(examples, message):
    with pytest.raises(ValueError, match=message):
        TokenEmbeddings.from_list(examples)


def test_mean_squared_norm():
    emb = TokenEmbeddings(np.array([[3.0, 4.0], [0.0, 1.0]]), np.array([0, 2]))
    assert emb.mean_squared_norm() == pytest.approx(13.0)


def test_at_most_dim_rows_keeps_every_log_determinant():
    examples = random_pool(1, 9, [1, 3, 4, 5, 12], 4, np.float64)
    short = TokenEmbeddings.from_list(examples).at_most_dim_rows()
    assert short.lengths.max() == 4
    for i, x in enumerate(examples):
        assert f([short[i]], [0], 0.7) == pytest.approx(f([x], [0], 0.7), rel=1e-12)
        if len(x) <= 4:
            np.testing.assert_array_equal(short[i], x)


def test_pooling_is_a_mean_the_last_token_or_a_mean_that_weights_later_ones_more():
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal((m, 3)) for m in (1, 4, 2)]
    emb = TokenEmbeddings.from_list(rows)
    expected = {
        "mean": [x.mean(axis=0) for x in rows],
        "last": [x[-1] for x in rows],
        "position": [np.average(x, axis=0, weights=np.arange(1, len(x) + 1)) for x in rows],
    }
    for pooling, vectors in expected.items():
        np.testing.assert_allclose(emb.pooled(pooling), vectors)


def test_unsigned_offsets_do_not_wrap_around():
    with pytest.raises(ValueError, match="example 1 has no tokens"):
        TokenEmbeddings(np.zeros((8, 2)), np.array([0, 5, 3, 8], np.uint64))
    rows = TokenEmbeddings(np.zeros((8, 2)), np.array([0, 5, 8], np.uint64))
    assert rows.lengths.tolist() == [5, 3]


def test_lists_and_embeddings_become_arrays_that_jax_takes_without_a_copy():
    tokens = TokenEmbeddings.from_list([np.ones((3, 5)), np.ones((4, 5), np.float32)]).tokens
    assert tokens.dtype == np.float64 and tokens.flags.aligned
    for shape in ((1, 1), (33, 7), (1000, 576)):
        array = aligned(shape, np.float32)
        assert array.shape == shape and array.dtype == np.float32
        on_device = jax.device_put(array, may_alias=True)
        assert on_device.unsafe_buffer_pointer() == array.ctypes.data


def test_embeddings_come_back_from_a_file_as_they_were(emb, tmp_path):
    path = tmp_path / "emb.safetensors"
    emb.save(path)
    again = fj.TokenEmbeddings.load(path)
    np.testing.assert_array_equal(again.tokens, emb.tokens)
    np.testing.assert_array_equal(again.offsets, emb.offsets)
    emb.save(str(path), "float16")
    half = fj.TokenEmbeddings.load(str(path))
    assert half.dtype == np.float32
    np.testing.assert_array_equal(half.tokens, emb.tokens.astype(np.float16))
    assert fj.choose(embeddings=path, n_samples=2).ranking.shape == (2,)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_what_no_file_can_hold_is_refused(emb, tmp_path):
    large = fj.TokenEmbeddings(emb.tokens * np.float32(1e6), emb.offsets)
    for given, path, dtype, words in (
        (emb, "emb.npz", None, "are written as .safetensors"),
        (emb, "emb.safetensors", "int8", "dtype must be 'float16'"),
        (large, "emb.safetensors", "float16", "can't hold numbers as large"),
    ):
        with pytest.raises(ValueError, match=words):
            given.save(tmp_path / path, dtype)
    assert [*tmp_path.iterdir()] == []
