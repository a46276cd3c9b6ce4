"""The package as it is published: from the source archive to a wheel, installed elsewhere."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.helpers.cli import K, read_rows, write_embeddings

ROOT = Path(__file__).parents[2]
BUILD = "import sys, setuptools.build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))"


def build(what, source, folder):
    argv = [sys.executable, "-c", BUILD, what, str(folder)]
    done = subprocess.run(argv, cwd=source, capture_output=True, text=True, check=True)
    return folder / done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_what_is_published_is_whole_and_runs_elsewhere(tmp_path):
    pytest.importorskip("setuptools")
    source = build("build_sdist", ROOT, tmp_path)
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / source.name.removesuffix(".tar.gz")
    ours = {str(p.relative_to(ROOT)) for p in (ROOT / "fisher_jax").rglob("*.[cpjt]*")}
    ours = {name for name in ours if "__pycache__" not in name}
    assert "fisher_jax/py.typed" in ours
    assert ours == {
        str(p.relative_to(unpacked)) for p in (unpacked / "fisher_jax").rglob("*.[cpjt]*")
    }
    wheel, elsewhere = build("build_wheel", unpacked, tmp_path), tmp_path / "elsewhere"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", elsewhere, wheel]
    subprocess.run(pip, check=True)
    assert ours == {
        str(p.relative_to(elsewhere))
        for p in (elsewhere / "fisher_jax").rglob("*.[cpjt]*")
        if "__pycache__" not in p.parts
    }

    write_embeddings(tmp_path / "emb.safetensors")
    out = tmp_path / "chosen.jsonl"
    environment = os.environ | {"PYTHONPATH": str(elsewhere)}
    for argv in (
        ["--help"],
        ["--embeddings", "emb.safetensors", "-o", str(out), "--n-samples", str(K)],
    ):
        command = [elsewhere / "bin" / "fisher-select", *argv]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert len(read_rows(out)) == K
    assert (tmp_path / "chosen.jsonl.report" / "report.html").exists()
    where = "import fisher_jax; print(fisher_jax.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout.startswith(str(elsewhere))
