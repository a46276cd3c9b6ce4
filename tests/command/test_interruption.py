"""What `fisher-select` leaves behind when a signal or a lost listener ends it."""

import contextlib
import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fisher_jax.command import interruption, main
from tests.helpers.cli import K, leave_earlier_results, read_rows, snapshot


@contextlib.contextmanager
def started(argv):
    """The command in a process, stderr unbuffered; killed if a test gives up."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # if ignored, the child would too
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    process = subprocess.Popen(
        [sys.executable, "-m", "fisher_jax.command", *map(str, argv)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(process, is_reached):
    for _ in range(30_000):
        if is_reached():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.003)
    raise AssertionError("the command never got there")


@pytest.mark.parametrize(("module", "where"), [("run", "_by"), ("choice", "write_ranking")])
def test_an_interruption_that_a_library_swallows_is_not_lost(
    module, where, run, ready, out, monkeypatch, tmp_path
):
    at = importlib.import_module(f"fisher_jax.pipeline.{module}")
    real = getattr(at, where)

    def swallowing(*args, **options):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        return real(*args[:3] if where == "_by" else args, **options)  # without progress

    monkeypatch.setattr(at, where, swallowing)
    before = snapshot(tmp_path)
    code, messages = run(*ready, "-o", out, "--n-samples", K)
    assert code == 130 and messages.endswith("interrupted, no selection was written\n")
    assert ("uniform draws" in messages) == (where == "write_ranking")  # at the next step
    assert snapshot(tmp_path) == before


def test_an_interruption_in_a_callback_is_told_without_a_traceback(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)

    class Swallows:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt), interruption.listening():
        Swallows()
        interruption.check()
    assert not told


def test_nobody_has_to_read_the_messages(ready, out, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as broken:
        for stream in (None, broken):
            monkeypatch.setattr(sys, "stderr", stream)
            assert main.main([str(word) for word in [*ready, "-o", out, "--n-samples", K]]) == 0
            assert len(read_rows(out)) == K
            out.unlink()
            shutil.rmtree(out.with_name(out.name + ".report"))


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        ("loading", signal.SIGINT),
        ("selecting", signal.SIGINT),
        ("selecting", signal.SIGHUP),
        ("writing", signal.SIGTERM),
    ],
)
def test_an_interruption_leaves_everything_as_it_was(
    stage, number, ready, out, tmp_path, monkeypatch
):
    if stage == "writing":
        leave_earlier_results(out)
    if stage == "loading":
        monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")  # tells of what is loaded
    before = snapshot(tmp_path)
    with started([*ready, "-o", out, "--n-samples", K, "--overwrite"]) as process:
        if stage == "writing":
            wait_for(process, lambda: any(tmp_path.rglob(".*.tmp/*.png")))
        else:
            assert process.stderr is not None
            seen, awaited = b"", {"loading": b" numpy\n", "selecting": b"selecting"}[stage]
            while awaited not in seen:
                seen += (more := process.stderr.read(1))
                assert more, seen
        process.send_signal(number)
        printed, messages = process.communicate(timeout=100)
    assert process.returncode == 130
    assert messages.endswith(b"\nfisher-select: interrupted, no selection was written\n")
    assert b"Traceback" not in messages
    assert printed == b""
    assert snapshot(tmp_path) == before


def test_the_caller_s_signal_handlers_are_there_again(run, ready, out, monkeypatch):
    def own(signum, frame):
        raise AssertionError

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, own) for number in numbers}
    try:
        assert run(*ready, "-o", out, "--n-samples", K)[0] == 0
        assert run(*ready, "-o", out, "--n-samples", K)[0] == 2  # OUT is there
        assert all(signal.getsignal(number) is own for number in numbers)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_the_command_may_run_in_a_thread(ready, out):
    with ThreadPoolExecutor(1) as executor:
        argv = [str(word) for word in [*ready, "-o", out, "--n-samples", K]]
        assert executor.submit(main.main, argv).result() == 0
    assert len(read_rows(out)) == K
