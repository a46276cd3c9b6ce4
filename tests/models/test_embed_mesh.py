"""Rows of a forward pass divided over virtual devices."""

import subprocess
import sys

import jax
import pytest
from jax.sharding import Mesh

import fisher_jax as fj
from fisher_jax.util.errors import UserError
from tests.helpers.compiling import with_devices

PROGRAM = """if True:
    import sys
    import jax
    import numpy as np
    from jax.sharding import Mesh
    import fisher_jax as fj
    from fisher_jax.models import embed as embedding
    from tests.helpers.cli import save_llama, texts
    from pathlib import Path

    save_llama(folder := Path(sys.argv[1]))
    rows = [*texts(n=21), *texts(n=3, words=12)]
    where, states = [], embedding.hidden_states

    def watched(*args):
        hidden = states(*args)
        shards = hidden.addressable_shards
        where.append({shard.device for shard in shards})
        assert len(shards) == len(where[-1]) and hidden.shape[0] % len(shards) == 0
        assert all(shard.data.shape[0] * len(shards) == hidden.shape[0] for shard in shards)
        return hidden

    embedding.hidden_states = watched
    one = fj.embed(rows, str(folder), batch_tokens=16)
    assert all(len(devices) == 1 for devices in where)
    two_by_three = Mesh(np.reshape(jax.devices()[:6], (2, 3)), ("a", "b"))
    for mesh in (Mesh(jax.devices(), "data"), two_by_three):
        where.clear()
        many = fj.embed(rows, str(folder), batch_tokens=16, mesh=mesh)
        assert where and all(len(devices) == mesh.size for devices in where)
        np.testing.assert_array_equal(one.offsets, many.offsets)
        np.testing.assert_allclose(one.tokens, many.tokens, rtol=1e-4, atol=1e-5)
    mesh = Mesh(jax.devices(), "data")  # and the same one chooses
    emb = fj.embed(rows, str(folder), batch_tokens=16, mesh=mesh)
    expected = fj.select(emb, n_samples=5).ranking
    np.testing.assert_array_equal(fj.select(emb, n_samples=5, mesh=mesh).ranking, expected)
    print("same")
"""


def test_rows_are_divided_over_the_devices_and_embedded_as_by_one(tmp_path):
    (tmp_path / "model").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "model")],
        env=with_devices(8),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "same\n"


def test_devices_of_other_processes_are_refused(llama, monkeypatch):
    mesh = Mesh(jax.devices()[:1], "data")
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with pytest.raises(UserError, match=r"other processes: pass one of jax\.local_devices"):
        fj.embed(["a b c"], str(llama), mesh=mesh)
