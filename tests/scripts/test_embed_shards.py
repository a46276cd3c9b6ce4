"""A pool embedded by several jobs: what is there afterwards is what one job embeds."""

import os
import re
import subprocess
import sys

import pytest

from fisher_jax.data.embedding_store import EmbeddingStore
from fisher_jax.util.errors import UserError
from scripts.embed_shards import LAUNCHERS, main
from tests.helpers.cli import M, N, texts, write_rows


@pytest.mark.slow
@pytest.mark.parametrize("on", ["here", "ray"])
def test_two_jobs_embed_a_pool(on, llama, tmp_path, monkeypatch):
    pytest.importorskip({"here": "submitit", "ray": "ray"}[on])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    pool = write_rows(tmp_path / "pool.jsonl", [{"text": text} for text in texts()])
    cache = tmp_path / "c"
    words = [pool, "--model", llama, "--batch-tokens", 2 * M, "--cache", cache]
    main(["--on", on, "--jobs", "2", "--", *map(str, words)])
    (folder,) = {path.parent for path in cache.rglob("*.safetensors")}
    assert len(list(folder.glob("*.safetensors"))) == 2 and len(EmbeddingStore(folder)) == N


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["--jobs", "2", "--on", "slurm"], "--cache DIR after -- must name a folder"),
        (["--jobs", "2", "--set", "timeot_min=3"], "submitit can't start the jobs: .*timeot_min"),
    ],
)
def test_what_can_not_be_started_is_told_in_a_line(words, told, tmp_path):
    argv = [sys.executable, "-m", "scripts.embed_shards", *words, "--", "pool", "--model", "m"]
    here = os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    done = subprocess.run(argv, cwd=tmp_path, env=here, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.search(f"error: {told}", done.stderr.splitlines()[-1])


def test_parts_that_fail_are_named_and_options_are_passed_on(monkeypatch):
    told = []
    monkeypatch.setitem(LAUNCHERS, "here", lambda *given: told.append(given) or [0, 2, 1])
    with pytest.raises(UserError, match="parts 2/3, 3/3 were not embedded"):
        main(
            ["--jobs", "3", "--set", "mem_gb=4", "slurm_partition=p", "--", "pool", "--model", "m"]
        )
    assert told == [(["pool", "--model", "m"], 3, {"mem_gb": 4, "slurm_partition": "p"})]
