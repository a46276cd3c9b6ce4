"""Rows that a cache has are not embedded again."""

import numpy as np
import pytest

import fisher_jax as fj
from fisher_jax.pipeline import embedding
from tests.helpers.cli import K, page_of, texts, write_rows


@pytest.fixture
def embedded(monkeypatch):
    """How many rows each forward pass was given."""
    counts, forward = [], embedding.forward

    def counting(model, rows, *others):
        counts.append(len(rows.ids))
        return forward(model, rows, *others)

    monkeypatch.setattr(embedding, "forward", counting)
    return counts


def chosen(rows, llama, cache, **options):
    return fj.choose(rows, model=llama, cache=cache, **{"n_samples": K} | options)


def test_other_budgets_and_rules_embed_nothing(llama, tmp_path, embedded):
    plain = fj.choose(texts(), model=llama, n_samples=K)
    cached = chosen(texts(), llama, tmp_path / "cache")
    np.testing.assert_array_equal(cached.ranking, plain.ranking)
    np.testing.assert_array_equal(cached.embeddings.tokens, plain.embeddings.tokens)
    chosen(texts(), llama, tmp_path / "cache", n_samples=K + 1, ridge=0.5, center=True)
    chosen(texts(), llama, tmp_path / "cache", selector="k_center")
    assert embedded == [len(texts())] * 2  # without a cache, and with it once


def test_a_changed_pool_embeds_its_new_rows(llama, tmp_path, embedded):
    chosen(texts()[:-3], llama, tmp_path / "cache")
    grown = chosen(texts()[::-1], llama, tmp_path / "cache")
    assert embedded == [len(texts()) - 3, 3]
    plain = fj.choose(texts()[::-1], model=llama, n_samples=K)
    np.testing.assert_allclose(
        grown.embeddings.tokens, plain.embeddings.tokens, rtol=1e-4, atol=1e-5
    )


def test_the_same_text_of_other_positions_is_another_row(llama, tmp_path):
    rows = [{"prompt": text, "completion": f" {text}"} for text in texts()]
    of_completions = chosen(rows, llama, tmp_path / "cache")
    of_all = chosen(rows, llama, tmp_path / "cache", positions="all")
    assert len(of_all.embeddings.tokens) > len(of_completions.embeddings.tokens)


def test_a_killed_run_goes_on_to_the_same_bytes(llama, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "SHARD_BYTES", 500)
    chosen(texts(), llama, tmp_path / "whole")
    forward, calls = embedding.forward, []

    def killed(*given):
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forward(*given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(embedding, "forward", killed)
        chosen(texts(), llama, tmp_path / "cache")
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 2
    chosen(texts(), llama, tmp_path / "cache")
    whole, again = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.safetensors")}
        for name in ("whole", "cache")
    )
    assert len(whole) == 3
    assert whole == again


def test_a_damaged_file_is_told_and_embedded_again(run, llama, out, tmp_path):
    pool, cache = write_rows(tmp_path / "p.jsonl", [{"text": t} for t in texts()]), tmp_path / "c"
    argv = [pool, "-o", out, "--model", llama, "--n-samples", K, "--cache", cache]
    assert run(*argv)[0] == 0
    first = out.read_bytes()
    (shard,) = cache.rglob("*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-100] ^= 1
    shard.write_bytes(data)
    assert run(*argv, "--overwrite")[0] == 0
    assert out.read_bytes() == first
    assert "1 damaged file of the cache left out" in page_of(out)


def test_a_cache_that_is_a_file_is_refused(refused, llama, out, tmp_path):
    pool = write_rows(tmp_path / "p.jsonl", [{"text": t} for t in texts()])
    argv = [pool, "-o", out, "--model", llama, "--n-samples", K, "--cache", pool]
    refused(argv, ["--cache", pool, "folder"])
