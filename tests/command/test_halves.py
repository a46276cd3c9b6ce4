"""`fisher-select embed`, `select` and `cache`, and the user's own cache."""

import shutil

import numpy as np
import pytest
from safetensors import safe_open

from fisher_jax.util.user_folder import CACHE_SWITCH
from tests.helpers.cli import K, M, N, manifest_of, page_of, read_rows, texts, write_rows


@pytest.fixture
def pool(tmp_path):
    """Rows as a file."""
    return write_rows(tmp_path / "pool.jsonl", [{"text": text} for text in texts()])


@pytest.fixture
def user(tmp_path, monkeypatch):
    """The user's cache, which commands may use here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv(CACHE_SWITCH)
    return tmp_path / "xdg" / "fisher_jax" / "embeddings"


def test_two_halves_choose_what_the_whole_does(run, refused, pool, llama, out, tmp_path, user):
    model = ["--model", llama, "--batch-tokens", 2 * M]
    whole = [pool, "-o", out, *model, "--n-samples", K, "--no-cache"]
    assert run(*whole)[0] == 0 and not user.exists()
    expected, page = out.read_bytes(), page_of(out)
    cached = [pool, *model, "--cache", tmp_path / "c"]
    select = ["select", *cached, "-o", out, "--n-samples", K, "--overwrite"]
    refused(select, [f"{N} of {N} rows are not embedded", "fisher-select embed"])
    code, messages = run("embed", *cached, "--shard", "1/2")
    assert code == 0 and "part 1 of 2 done" in messages
    refused(select, ["rows are not embedded"])
    code, messages = run("embed", *cached, "--shard", "2/2")
    assert code == 0 and f"{N} of {N} rows embedded" in messages
    assert run(*select)[0] == 0
    assert out.read_bytes() == expected
    assert run(*whole[:-1], "--overwrite")[0] == 0 and any(user.rglob("*.safetensors"))
    assert run(*whole[:-1], "--overwrite")[0] == 0  # from the user's cache, to the same bytes
    again = page_of(out)
    assert out.read_bytes() == expected and page.split("<table>")[1] == again.split("<table>")[1]
    assert manifest_of(out)["options"]["cache"] is None


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_cache_of_half_the_bytes_is_selected_by_as_it_is(dtype, run, pool, llama, out, tmp_path):
    argv = [pool, "-o", out, "--model", llama, "--n-samples", K, "--cache", tmp_path / "c"]
    assert run(*argv)[0] == 0
    exact = [row["fisher_gain"] for row in read_rows(out)]
    argv += ["--cache-dtype", dtype, "--overwrite"]
    assert run(*argv)[0] == 0
    first, gains = out.read_bytes(), [row["fisher_gain"] for row in read_rows(out)]
    np.testing.assert_allclose(gains, exact, rtol=0.02)
    assert gains != exact and run("select", *argv)[0] == 0 and out.read_bytes() == first
    assert manifest_of(out)["options"]["cache_dtype"] == dtype
    narrow, wide = sorted(tmp_path.rglob("*.safetensors"), key=lambda path: path.stat().st_size)
    assert wide.parent.name + f"_{dtype}" == narrow.parent.name
    with safe_open(narrow, framework="numpy") as shard:
        assert (
            shard.get_slice("tokens").get_dtype() == {"float16": "F16", "bfloat16": "BF16"}[dtype]
        )


def test_a_cache_is_listed_and_cleared(run, refused, pool, llama, tmp_path):
    cache = tmp_path / "c"
    assert "nothing is kept" in run("cache", "--cache", cache)[1]
    run("embed", pool, "--model", llama, "--cache", cache)
    (shard,) = cache.rglob("*.safetensors")
    listed = run("cache", "--cache", cache)[1]
    assert str(llama) in listed and str(shard.parent) in listed and shard.exists()
    other = cache / "my-llama" / "model.safetensors"  # somebody's model
    other.parent.mkdir()
    shutil.copy(shard, other)
    refused(["cache", "--cache", pool], [f"--cache {pool} is no folder: name one"])
    refused(["cache", "--cache", cache, "--clear", "another"], ["nothing is kept of another"])
    code, messages = run("cache", "--cache", cache, "--clear", llama)
    assert code == 0 and "removed" in messages and not shard.exists()
    assert "nothing is kept" in run("cache", "--cache", cache, "--clear")[1] and other.exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--shard", "0/2"], ["--shard", "I from 1 to K"]),
        (["--shard", "3/2"], ["--shard", "I from 1 to K"]),
        (["--no-cache"], ["--no-cache", "leave it out"]),
        (["--n-samples", 3], ["--n-samples"]),
        (["--certify"], ["unrecognized arguments: --certify"]),
        (["--cache-dtype", "float16"], ["--cache-dtype float16 goes with a --cache DIR"]),
    ],
)
def test_what_embed_does_not_take_is_refused(refused, pool, llama, tmp_path, more, words):
    refused(["embed", pool, "--model", llama, *more], words)
