"""Embeddings on disk: found again, damaged ones told apart, streamed into a selection."""

import hashlib

import numpy as np
import pytest

import fisher_jax as fj
from fisher_jax.data.embedding_store import EmbeddingStore
from fisher_jax.util.errors import UserError
from tests.helpers.references import random_pool

EXAMPLES = random_pool(0, 30, [1, 3, 8], 6)
KEYS = [hashlib.sha256(x.tobytes()).digest() for x in EXAMPLES]


def filled(folder, dtype="float32", shards=3):
    store = EmbeddingStore(folder, dtype)
    for k in range(shards):
        part = slice(k, None, shards)
        store.add(KEYS[part], fj.TokenEmbeddings.from_list(EXAMPLES[part]))
    return store


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 0), ("float16", 1e-3), ("bfloat16", 8e-3)]
)
def test_what_is_read_is_what_was_written(tmp_path, dtype, tolerance):
    filled(tmp_path, dtype)
    view = EmbeddingStore(tmp_path).view(KEYS)
    expected = fj.TokenEmbeddings.from_list(EXAMPLES)
    loaded = view.in_memory()
    np.testing.assert_array_equal(loaded.offsets, expected.offsets)
    np.testing.assert_allclose(loaded.tokens, expected.tokens, rtol=tolerance)
    np.testing.assert_array_equal(
        view.read(np.asarray([7, 2])), np.concatenate([loaded[7], loaded[2]])
    )
    np.testing.assert_allclose(view.mean_squared_norm(), loaded.mean_squared_norm(), rtol=1e-6)


def test_only_what_is_not_there_is_missing(tmp_path):
    store = EmbeddingStore(tmp_path)
    assert len(store.missing(KEYS)) == len(KEYS)
    store.add(KEYS[:10], fj.TokenEmbeddings.from_list(EXAMPLES[:10]))
    for again in (store, EmbeddingStore(tmp_path)):
        np.testing.assert_array_equal(again.missing(KEYS), np.arange(10, len(KEYS)))


@pytest.mark.parametrize("center", [False, True])
def test_standardized_as_in_memory(tmp_path, center):
    view = filled(tmp_path).view(KEYS).standardized(center)
    emb = fj.TokenEmbeddings.from_list(EXAMPLES)
    tokens = emb.tokens - emb.tokens.mean(axis=0) if center else emb.tokens
    tokens = tokens / np.sqrt(np.mean(np.sum(tokens**2, axis=1)))
    np.testing.assert_allclose(view.in_memory().tokens, tokens, rtol=1e-5, atol=1e-6)
    assert view.mean_squared_norm() == pytest.approx(1, rel=1e-5)
    again = view.standardized(not center).standardized(center)
    np.testing.assert_array_equal(again.in_memory().tokens, view.in_memory().tokens)


def test_a_selection_streams_the_store(tmp_path):
    view = filled(tmp_path).view(KEYS)
    streamed = fj.select(view, n_samples=8)
    expected = fj.select(fj.TokenEmbeddings.from_list(EXAMPLES), n_samples=8)
    np.testing.assert_array_equal(streamed.ranking, expected.ranking)
    np.testing.assert_allclose(streamed.gains, expected.gains, rtol=1e-5)


@pytest.mark.parametrize("damage", ["flipped", "renamed", "cut", "empty"])
def test_a_damaged_shard_counts_as_missing(tmp_path, damage):
    filled(tmp_path)
    path = sorted(tmp_path.iterdir())[1]
    data = bytearray(path.read_bytes())
    data[-200] ^= 4
    damaged = {
        "flipped": bytes(data),
        "renamed": path.read_bytes().replace(b'"tokens"', b'"uokens"'),  # one bit of the header
        "cut": bytes(data[:-1]),
        "empty": b"",
    }
    path.write_bytes(damaged[damage])
    store = EmbeddingStore(tmp_path)
    missing = store.missing(KEYS)
    assert store.damaged == [path]
    with pytest.raises(UserError, match="lacks 10 of 30 examples, or has them damaged, the first"):
        EmbeddingStore(tmp_path).view(KEYS)
    assert len(missing) == 10
    store.add(
        [KEYS[i] for i in missing], fj.TokenEmbeddings.from_list([EXAMPLES[i] for i in missing])
    )
    assert path.read_bytes() != bytes(data)  # the same keys: the shard is replaced
    assert len(EmbeddingStore(tmp_path).missing(KEYS)) == 0


def test_numbers_too_large_for_float16_are_told(tmp_path):
    with pytest.raises(ValueError, match="bfloat16 or float32"):
        EmbeddingStore(tmp_path, "float16").add(
            [KEYS[0]], fj.TokenEmbeddings.from_list([np.full((1, 2), 1e5)])
        )
    assert not list(tmp_path.iterdir())


def test_a_shard_that_another_process_removes_stays_readable(tmp_path):
    store = filled(tmp_path)
    for path in store.used(KEYS):
        path.unlink()
    np.testing.assert_array_equal(store.view(KEYS).read(np.asarray([4])), EXAMPLES[4])
    assert len(EmbeddingStore(tmp_path).missing(KEYS)) == len(KEYS)
