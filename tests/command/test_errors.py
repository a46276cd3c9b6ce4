"""Which errors the commands tell in a line, and which keep their traceback."""

import os
import subprocess
import sys

import numpy as np
import pytest

import fisher_jax as fj
from experiments.run.harness import reporting
from fisher_jax.pipeline import run as run_
from fisher_jax.util.errors import UserError
from tests.helpers.cli import K

FAULTS = {
    "NumPy's broadcast": ValueError("operands could not be broadcast together"),
    "no such code yet": NotImplementedError("later"),
    "too deep": RecursionError("maximum recursion depth exceeded"),
    "an XLA bug": RuntimeError("INTERNAL: during context [Unknown]"),
    "a lost key": KeyError("x"),
    "a lost module": ImportError("cannot import name 'x'"),
}
TOLD = {
    "bad input": (UserError("pool.jsonl, line 3 is empty: remove it"), "line 3 is empty"),
    "memory of the host": (MemoryError("Unable to allocate 9 TiB"), "out of memory (Unable to"),
    "memory of the device": (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "out of memory (R"),
    "memory of a thread": (RuntimeError("can't start new thread"), "out of memory (can't start"),
    "memory of a library": (
        ImportError("/lib/libx.so: failed to map segment from shared object"),
        "out of memory (/lib/libx.so",
    ),
    "the system": (PermissionError(13, "Permission denied", "x"), "Permission denied"),
}


def raising(error):
    def function(*args, **options):
        raise error

    return function


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_program_keeps_its_traceback(name, run, ready, out, monkeypatch):
    error = FAULTS[name]
    monkeypatch.setattr(run_, "_selected", raising(error))
    with pytest.raises(type(error), match=str(error).split()[0].strip("':")):
        run(*ready, "-o", out, "--n-samples", K)
    assert [*out.parent.iterdir()] == []
    with pytest.raises(type(error)), reporting("experiments.x"):
        raise error


@pytest.mark.parametrize("name", TOLD)
def test_what_a_person_can_mend_is_told_in_a_line(name, run, ready, out, monkeypatch, capsys):
    error, words = TOLD[name]
    monkeypatch.setattr(run_, "_selected", raising(error))
    code, messages = run(*ready, "-o", out, "--n-samples", K)
    assert code == 2 and words in messages.splitlines()[-1]
    assert ("smaller --batch-tokens" in messages) == name.startswith("memory")
    with pytest.raises(SystemExit, match="2"), reporting("experiments.x"):
        raise error
    assert words in capsys.readouterr().err


def test_libraries_of_the_report_that_do_not_fit_are_told_before_the_work(
    run, ready, out, monkeypatch
):
    monkeypatch.setattr("fisher_jax.command.work.import_libraries", raising(MemoryError("of all")))
    code, messages = run(*ready, "-o", out, "--n-samples", K)
    assert code == 2 and "out of memory (of all)" in messages and "selecting" not in messages


@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_a_device_that_is_not_there_is_told_in_a_line(platform, ready, out):
    if platform == "cuda" and os.environ.get("CUDA_VISIBLE_DEVICES"):
        pytest.skip("it is there")
    argv = [*ready, "-o", out, "--n-samples", K]
    done = subprocess.run(
        [sys.executable, "-m", "fisher_jax.command", *map(str, argv)],
        env=os.environ | {"JAX_PLATFORMS": platform},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("fisher-select: error: JAX can't start the devices that JAX_P")
    assert f"JAX_PLATFORMS={platform} names" in done.stderr and done.stderr.count("\n") == 1


def test_arguments_of_the_library_are_a_person_s():
    emb = fj.TokenEmbeddings.from_list([np.eye(2, dtype=np.float32)] * 2)
    for options in ({}, {"n_samples": 3}, {"n_samples": 1, "ridge": -1}):
        with pytest.raises(UserError):
            fj.select(emb, **options)
