"""Compiled programs that the command keeps for its next run."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import fisher_jax as fj
from fisher_jax.command import compiled
from tests.helpers.cli import write_embeddings

HIT, MISS = "Persistent compilation cache hit", "PERSISTENT COMPILATION CACHE MISS"


@pytest.fixture
def start(tmp_path):
    """Run the command in a process of its own with these variables; its log of programs."""
    write_embeddings(tmp_path / "emb.safetensors")
    names = (compiled.SWITCH, "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR")
    clean = {k: v for k, v in os.environ.items() if k not in names}
    own = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "MPLCONFIGDIR": str(tmp_path / "figures")}

    def start(**variables):
        argv = ["--embeddings", "emb.safetensors", "-o", "out.jsonl", "--n-samples", "3"]
        done = subprocess.run(
            [sys.executable, "-m", "fisher_jax.command", *argv, "--overwrite"],
            env=clean | own | variables,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    return start


def programs(folder):
    return sorted(path.name for path in folder.rglob("*-cache"))


def test_a_second_process_compiles_nothing_again(start, tmp_path):
    log = {"JAX_LOG_COMPILES": "1", "JAX_EXPLAIN_CACHE_MISSES": "1"}
    log |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    first = start(**log)
    assert MISS in first
    kept = programs(tmp_path / "cache" / "fisher_jax" / "compiled")
    assert any(name.startswith("jit_advance") for name in kept)
    half = next((tmp_path / "cache").rglob("jit_advance*-atime"))
    half.unlink()  # as of a writer that was killed
    second = start(**log)
    assert second.count(HIT) > 5 and second.count(MISS) == 1
    assert programs(tmp_path / "cache") == kept and half.exists()


@pytest.mark.parametrize("own", [True, False])
def test_nothing_is_kept_of_those_who_do_not_want_it(own, start, tmp_path):
    chosen = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "own")} if own else {}
    start(**(chosen or {compiled.SWITCH: "off"}))
    assert not (tmp_path / "cache").exists()
    assert (tmp_path / "own").exists() == own


def test_a_folder_that_cannot_be_written_is_not_spoken_of(start, tmp_path):
    (tmp_path / "file").write_text("")
    messages = start(XDG_CACHE_HOME=str(tmp_path / "file"))
    assert "cache" not in messages and "Warning" not in messages


def test_a_disk_that_fills_up_is_not_spoken_of(start, tmp_path):
    start(JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    for path in (tmp_path / "cache").rglob("*-cache"):
        path.write_bytes(b"")  # what was written of a program
    messages = start(JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    assert "cache" not in messages and "Warning" not in messages


def test_another_cpu_has_another_folder(monkeypatch):
    folders = []
    for mhz, flags in ((1, "fpu sse"), (2, "fpu sse"), (1, "fpu sse avx")):
        text = f"model name : a CPU\ncpu MHz : {mhz}\nflags : {flags}\n\nprocessor : 1\n"
        monkeypatch.setattr(compiled.Path, "read_text", lambda path, text=text: text)
        folders.append(compiled.compiled_folder())
    assert folders[0] == folders[1] != folders[2]
    assert folders[0].parent == folders[2].parent


def test_the_library_keeps_nothing():
    before = jax.config.jax_compilation_cache_dir
    fj.select(fj.TokenEmbeddings.from_list([np.eye(2, dtype=np.float32)] * 2), n_samples=1)
    assert before is None and jax.config.jax_compilation_cache_dir is None
