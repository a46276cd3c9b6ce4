"""Rows that a cache has are not embedded again, and what is chosen does not depend on it."""

import subprocess
import sys

import numpy as np
import pytest

import fisher_jax as fj
from fisher_jax.models import load_model
from fisher_jax.pipeline import Clock, Request, cache, embedding, plan, prepare
from fisher_jax.pipeline.run import embed_pool
from fisher_jax.scoring import inputs
from tests.helpers.cli import D, K, M, N, page_of, texts, write_rows
from tests.helpers.compiling import with_devices


@pytest.fixture
def embedded(monkeypatch):
    """How many rows each shard was given."""
    counts, run_passes = [], embedding.run_passes

    def counting(model, rows, *others):
        counts.append(len(rows.ids))
        return run_passes(model, rows, *others)

    monkeypatch.setattr(embedding, "run_passes", counting)
    return counts


@pytest.fixture
def user(tmp_path, monkeypatch):
    """The folder of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "fisher_jax" / "embeddings"


def chosen(rows, llama, cache, **options):
    return fj.choose(rows, model=llama, cache=cache, **{"n_samples": K} | options)


def shards(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*.safetensors")}


def test_other_budgets_and_rules_embed_nothing(llama, tmp_path, embedded):
    plain = fj.choose(texts(), model=llama, n_samples=K)
    cached = chosen(texts(), llama, tmp_path / "cache")
    np.testing.assert_array_equal(cached.ranking, plain.ranking)
    np.testing.assert_array_equal(cached.embeddings.tokens, plain.embeddings.tokens)
    chosen(texts(), llama, tmp_path / "cache", n_samples=K + 1, ridge=0.5, center=True)
    chosen(texts(), llama, tmp_path / "cache", selector="k_center")
    assert embedded == [len(texts())]


def test_a_changed_pool_embeds_its_new_rows(llama, tmp_path, embedded):
    chosen(texts()[:-3], llama, tmp_path / "cache")
    grown = chosen(texts()[::-1], llama, tmp_path / "cache")
    assert embedded == [len(texts()) - 3, 3]
    plain = fj.choose(texts()[::-1], model=llama, n_samples=K)
    np.testing.assert_allclose(
        grown.embeddings.tokens, plain.embeddings.tokens, rtol=1e-4, atol=1e-5
    )


def test_the_users_cache_changes_no_bit(llama, user, embedded):
    few, many = texts()[:3], [*texts(), *texts(1, n=5, words=M + 4)]
    for rows in (few, many, many, [*many, many[0]]):
        plain = fj.choose(rows, model=llama, n_samples=K)
        cached = chosen(rows, llama, True)
        np.testing.assert_array_equal(cached.embeddings.tokens, plain.embeddings.tokens)
    # other batches, other rounding: only the same pool is found again, and of copies the first
    assert embedded[:2] == [3, len(many)] and sum(embedded[2:]) <= len(many)
    assert shards(user)


def test_what_was_not_used_for_longest_goes(llama, user, monkeypatch, embedded):
    pools = [texts(seed) for seed in range(3)]
    chosen(pools[0], llama, True)
    (size,) = (path.stat().st_size for path in user.rglob("*.safetensors"))
    monkeypatch.setattr(cache, "LIMIT", 2.2 * size)
    for k in (0, 1, 0, 2, 0, 1):  # 2 takes the place of 1
        chosen(pools[k], llama, True)
    assert len(embedded) == 4
    prepared = prepare(Request(pool=texts(3), model=llama, n_samples=K, cache=True), Clock())
    assert "not used for longest, will go" in prepared.kept


def test_a_pool_larger_than_the_users_cache_is_not_kept(llama, user, monkeypatch):
    monkeypatch.setattr(cache, "LIMIT", 100)
    prepared = prepare(Request(pool=texts(), model=llama, n_samples=K, cache=True), Clock())
    assert prepared.cached.get("pool") is None and "not kept" in prepared.kept
    assert len(chosen(texts(), llama, True).ranking) == K


@pytest.mark.parametrize("by_default", [True, False])
@pytest.mark.parametrize("what", ["EmbeddingStore.add", "write_numbers"])
def test_a_full_disk_stops_only_who_asked_for_a_cache(
    llama, tmp_path, user, monkeypatch, what, by_default
):
    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"fisher_jax.pipeline.embedding.{what}", full)
    options = {"model": llama, "n_samples": K, "selector": "perplexity_low"}
    if by_default:
        assert len(fj.choose(texts(), cache=True, **options).ranking) == K
    else:
        with pytest.raises(OSError, match="No space"):
            fj.choose(texts(), cache=tmp_path / "c", **options)


def test_copies_are_embedded_once(llama, tmp_path, embedded):
    chosen([*texts(), *texts()], llama, tmp_path / "cache")
    assert embedded == [len(texts())]


def test_the_same_text_of_other_positions_is_another_row(llama, tmp_path):
    rows = [{"prompt": text, "completion": f" {text}"} for text in texts()]
    of_completions = chosen(rows, llama, tmp_path / "cache")
    of_all = chosen(rows, llama, tmp_path / "cache", positions="all")
    assert len(of_all.embeddings.tokens) > len(of_completions.embeddings.tokens)


@pytest.fixture
def small_shards(monkeypatch):
    """Three shards of the pool, of a pass of three rows each."""
    monkeypatch.setattr(embedding, "SHARD_BYTES", 3 * M * D * 4)
    return {"batch_tokens": 3 * M}


def test_a_killed_run_goes_on_to_the_same_bytes(llama, tmp_path, monkeypatch, small_shards):
    chosen(texts(), llama, tmp_path / "whole", **small_shards)
    run_passes, calls = embedding.run_passes, []

    def killed(*given):
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run_passes(*given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(embedding, "run_passes", killed)
        chosen(texts(), llama, tmp_path / "cache", **small_shards)
    assert len(shards(tmp_path / "cache")) == 2
    (folder,) = (tmp_path / "cache").iterdir()
    (folder / ".x.safetensors.12345678.tmp").touch()  # of a writer that was killed
    chosen(texts(), llama, tmp_path / "cache", **small_shards)
    assert len(shards(tmp_path / "whole")) == 3
    assert shards(tmp_path / "whole") == shards(tmp_path / "cache")


def test_jobs_embed_their_parts(llama, tmp_path, small_shards, embedded):
    whole = chosen(texts(), llama, None, **small_shards)
    options = {"model": llama, "cache": tmp_path / "cache", "n_samples": K} | small_shards
    for i in (2, 1):
        embed_pool(prepare(Request(pool=texts(), **options), Clock()), Clock(), (i, 2))
    assert sorted(embedded) == [2, 3, 3]
    again = fj.choose(texts(), **options)
    assert len(embedded) == 3
    np.testing.assert_array_equal(again.embeddings.tokens, whole.embeddings.tokens)


def test_more_jobs_than_shards_share_the_passes(llama, tmp_path, embedded):
    options = {"model": llama, "cache": tmp_path / "cache", "n_samples": K, "batch_tokens": 2 * M}
    for i in (1, 2, 3):
        embed_pool(prepare(Request(pool=texts(), **options), Clock()), Clock(), (i, 3))
    assert sum(embedded) == N and max(embedded) < N


def test_scores_are_asked_for_once(llama, tmp_path, monkeypatch):
    calls, token_scores = [], inputs.token_scores
    monkeypatch.setattr(
        inputs, "token_scores", lambda *a, **k: calls.append(0) or token_scores(*a, **k)
    )
    plain = fj.choose(texts(), model=llama, n_samples=K, selector="perplexity_low")
    for seed in (0, 1):
        cached = chosen(texts(), llama, tmp_path / "c", selector="perplexity_low", seed=seed)
        np.testing.assert_array_equal(cached.ranking, plain.ranking)
    chosen(texts()[::-1], llama, tmp_path / "c", selector="perplexity_low")
    assert len(calls) == 3  # without a cache, with it, and of rows in another order


@pytest.mark.parametrize(
    "options",
    [{}, {"selector": "uniform"}, {"center": True}, {"normalize": "unit", "project_dim": D - 1}],
)
def test_a_pool_larger_than_memory_streams(llama, tmp_path, monkeypatch, options):
    plain = fj.choose(texts(), model=llama, n_samples=K, **options)
    monkeypatch.setattr(plan, "physical_memory", lambda: 100.0)
    prepared = prepare(
        Request(pool=texts(), model=llama, n_samples=K, cache=tmp_path / "c"), Clock()
    )
    assert "larger than memory" in str(prepared.plan)
    streamed = chosen(texts(), llama, tmp_path / "c", **options)
    assert isinstance(streamed.embeddings, embedding.StoredEmbeddings)
    np.testing.assert_array_equal(streamed.ranking, plain.ranking)
    np.testing.assert_allclose(streamed.gains, plain.gains, rtol=1e-4)
    plain.write(tmp_path / "a.jsonl")
    streamed.write(tmp_path / "b.jsonl")
    a, b = (page_of(tmp_path / f"{name}.jsonl").count("<tr>") for name in "ab")
    assert b == a + 1  # the name of the cache, among the options


OF_FOUR_DEVICES = """if True:
    import sys
    import numpy as np
    import fisher_jax as fj
    from fisher_jax.design import device_pool, selection
    from fisher_jax.pipeline import Clock, Request, embedding, plan, prepare
    from fisher_jax.util import platforms
    from tests.helpers.cli import D, K, M, N, texts

    llama, cache = sys.argv[1:]
    sizes, make = [], selection.make_pool
    selection.make_pool = lambda *args: (sizes.append(args[4]), make(*args))[1]
    real, plan.physical_memory = plan.physical_memory, lambda: 1e6
    for budget in ({"n_samples": K}, {"token_budget": 9}):
        of = {"model": llama, "cache": cache, **budget}
        one, many = fj.choose(texts(), **of), fj.choose(texts(), **of, devices=4)
        assert isinstance(many.embeddings, embedding.StoredEmbeddings)
        assert sizes.pop().size == 4 and not sizes  # one alone streams
        np.testing.assert_array_equal(many.ranking, one.ranking)
        np.testing.assert_allclose(many.gains, one.gains, rtol=1e-5)
    plan.physical_memory = lambda: 4.0 * N * M * D - 1
    for more in ({"devices": 4}, {"devices": 5}):
        try:
            fj.choose(texts(), **of, **more)
        except ValueError as error:
            print(error)
    plan.physical_memory = real  # a pool that fits into it and not onto one device
    platforms._memory = lambda: 2.0 * 4 * N * M * D / 3
    many = fj.choose(texts(), **of, devices=4, compare=["fisher"])
    many.write(f"{cache}/out.jsonl")
    np.testing.assert_array_equal(many.ranking, one.ranking)
    of = {"model": llama, "n_samples": K, "devices": 4, "compare": ["longest"]}
    try:
        prepare(Request(pool=texts(), **of), Clock())  # before any work
    except ValueError as error:
        print(error)
"""


def test_what_is_kept_is_divided_over_devices(llama, tmp_path):
    run = [sys.executable, "-c", OF_FOUR_DEVICES, llama, tmp_path / "c"]
    done = subprocess.run(run, env=with_devices(4), capture_output=True, text=True, timeout=300)
    parts, devices, whole = done.stdout.splitlines() or [done.stderr]
    assert parts.startswith("a part of the embeddings for each of 4 devices needs")
    assert devices.startswith("`devices=5`: JAX sees 4 devices")
    assert whole.startswith("the pool's embeddings need")


def test_only_some_rules_divide_a_pool(llama):
    with pytest.raises(ValueError, match="take one of fisher, fisher_per_token"):
        fj.choose(texts(), model=llama, n_samples=K, selector="uniform", devices=2)
    with pytest.raises(ValueError, match="`devices` must be at least 1, got 0"):
        fj.choose(texts(), model=llama, n_samples=K, devices=0)


def test_a_rule_that_cannot_stream_is_refused(llama, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "physical_memory", lambda: 100.0)
    with pytest.raises(ValueError, match="or select by one of uniform"):
        chosen(texts(), llama, tmp_path / "c", selector="k_center")
    with pytest.raises(ValueError, match="cache=DIR"):
        chosen(texts(), llama, None)


def test_another_config_of_the_same_weights_is_another_model(llama, tmp_path):
    model, kept = load_model(str(llama)), cache.Cache(tmp_path)
    config = model.module.config
    before = kept.place(model)
    model.module.config = config._replace(norm_eps=1e-3) if hasattr(config, "_replace") else None
    assert kept.place(model) != before


def test_a_damaged_file_is_told_and_embedded_again(run, llama, out, tmp_path):
    pool, kept = write_rows(tmp_path / "p.jsonl", [{"text": t} for t in texts()]), tmp_path / "c"
    argv = [pool, "-o", out, "--model", llama, "--n-samples", K, "--cache", kept]
    assert run(*argv)[0] == 0
    first = out.read_bytes()
    (shard,) = kept.rglob("*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-100] ^= 1
    shard.write_bytes(data)
    code, messages = run(*argv, "--overwrite")
    assert code == 0 and f"1 damaged file of the cache left out, first {shard}" in messages
    assert out.read_bytes() == first
    assert f"{N} rows of {N} in the cache" in run(*argv, "--overwrite")[1]


def test_a_cache_that_is_a_file_is_refused(refused, llama, out, tmp_path):
    pool = write_rows(tmp_path / "p.jsonl", [{"text": t} for t in texts()])
    argv = [pool, "-o", out, "--model", llama, "--n-samples", K, "--cache", pool]
    refused(argv, ["--cache", pool, "folder"])
