"""The accelerator job's bookkeeping: parts of a file, limits, what is done, the table."""

import json
import sys
import time

import numpy as np
import pytest

from scripts.accelerator import collect, run
from scripts.accelerator.imports import imported
from scripts.accelerator.layout import write_json
from scripts.accelerator.parity import with_twins
from scripts.accelerator.parts import MissingPartsError, are_there, join, sha256, split
from scripts.accelerator.record import LeftOut, Record
from scripts.accelerator.reference import compared, exact_gains
from scripts.accelerator.selection import summary

SAME = {"commit": "abc", "dirty": False, "small": False}


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "whole"
    path.write_bytes(bytes(range(256)) * 10)
    return path


def test_parts_are_joined_to_the_same_bytes(tmp_path, whole):
    parts = split(whole, tmp_path, 1000)
    assert [part["bytes"] for part in parts] == [1000, 1000, 560]
    assert [part["name"] for part in parts] == ["model-1", "model-2", "model-3"]
    assert are_there(tmp_path, parts)
    join(tmp_path, parts, sha256(whole), tmp_path / "made" / "model")
    assert (tmp_path / "made" / "model").read_bytes() == whole.read_bytes()


def test_missing_and_damaged_parts_are_told_and_leave_no_file(tmp_path, whole):
    parts = split(whole, tmp_path, 1000)
    target = tmp_path / "model"
    (tmp_path / "model-2" / "part").write_bytes(b"x" * 1000)
    assert not are_there(tmp_path, parts)
    with pytest.raises(MissingPartsError, match="damaged"):
        join(tmp_path, parts, sha256(whole), target)
    (tmp_path / "model-2" / "part").unlink()
    with pytest.raises(MissingPartsError, match=r"missing: model-2$"):
        join(tmp_path, parts, sha256(whole), target)
    assert not target.exists()


def broken():
    raise RuntimeError("no such\nkernel")


def lacking():
    raise LeftOut("torch: not there")


def test_a_part_that_fails_ends_no_other_and_alone_runs_again(tmp_path):
    calls = []

    def fine():
        calls.append(1)
        return {"x": 1.5}

    parts = {"broken": broken, "lacking": lacking, "fine": fine}
    for _ in range(2):
        Record(tmp_path, "stage", SAME).run(parts)
    content = json.loads((tmp_path / "stage.json").read_text())
    assert content["parts"]["fine"]["x"] == 1.5 and len(calls) == 1
    assert content["failed"] == {"broken": "RuntimeError: no such kernel"}
    assert content["left_out"] == {"lacking": "torch: not there"}
    assert content["ended"] == "with failures"
    Record(tmp_path, "stage", SAME).run(parts | {"broken": lambda: {"y": 2}})
    content = json.loads((tmp_path / "stage.json").read_text())
    assert {*content["parts"]} == {"fine", "broken"} and content["ended"] == "done"


def test_parts_of_another_commit_and_unfinished_ones_run_again(tmp_path):
    record = Record(tmp_path, "stage", SAME)
    record.run({"a": lambda: {"x": 1}})
    record.keep("b", {"x": 1, "unfinished": True})
    Record(tmp_path, "stage", SAME).run({"a": lambda: {"x": 2}, "b": lambda: {"x": 2}})
    parts = json.loads((tmp_path / "stage.json").read_text())["parts"]
    assert (parts["a"]["x"], parts["b"]["x"]) == (1, 2)
    Record(tmp_path, "stage", SAME | {"commit": "def"}).run({"a": lambda: {"x": 3}})
    parts = json.loads((tmp_path / "stage.json").read_text())["parts"]
    assert parts["a"]["x"] == 3 and "b" not in parts


WRITE = (
    "import json, pathlib, sys, time\n"
    "path = pathlib.Path(sys.argv[1])\n"
    "content = {'parts': {'a': {'x': 1}}, 'failed': {}, 'left_out': {}, 'ended': 'done'}\n"
    "path.write_text(json.dumps(content))\n"
)


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Runs a program as a stage; how it ended, and results.json."""
    monkeypatch.setattr(run, "PAUSE", 0.05)
    (tmp_path / "logs").mkdir()

    def stage(program, limit=60.0, write=WRITE):
        command = [sys.executable, "-c", write + program, str(tmp_path / "parity.json")]
        ended = run.run_stage(command, {}, limit, tmp_path, tmp_path, "parity")
        return ended, json.loads((tmp_path / "results.json").read_text())["parity"]

    return stage


def test_a_stage_that_ends_says_how(stage):
    ended, record = stage("")
    assert ended.startswith("done, ") and record["parts"] == {"a": {"x": 1}}


def test_a_stage_that_hangs_is_ended_with_what_it_started(stage, tmp_path):
    beat = tmp_path / "beat"
    child = (
        f"import time, pathlib\nwhile True: pathlib.Path({str(beat)!r}).touch(); time.sleep(.05)"
    )
    program = f"import subprocess\nsubprocess.Popen([sys.executable, '-c', {child!r}])\n"
    begin = time.monotonic()
    ended, record = stage(program + "time.sleep(60)", limit=2.0)
    assert ended.startswith("stopped at its limit of 2 s") and time.monotonic() - begin < 20
    assert record["ended"].startswith("stopped") and record["parts"] == {"a": {"x": 1}}
    stamp = beat.stat().st_mtime_ns
    time.sleep(0.3)
    assert beat.stat().st_mtime_ns == stamp


def test_a_stage_that_crashes_keeps_its_parts_and_shows_its_log(stage, capfd):
    ended, record = stage("print('last words', flush=True); import os; os.abort()")
    assert ended.startswith("broke off with exit code -6")
    assert record["parts"] == {"a": {"x": 1}} and "last words" in capfd.readouterr().out


PARTS = """
import sys, time
from pathlib import Path
from scripts.accelerator.record import Record

def crash():
    import os
    os.abort()

parts = {
    "first": lambda: {"x": 1},
    "slow": lambda: time.sleep(60),
    "crash": crash,
    "last": lambda: {"x": 2},
}
Record(Path(sys.argv[1]).parent, "parity", {}).run(parts, 0.2)
"""


def test_parts_that_end_their_process_are_marked_and_the_others_run(stage, tmp_path):
    begin = time.monotonic()
    ended, record = stage(PARTS, write="")
    assert ended.startswith("done") and "slow overran: its limit" in ended
    assert {name: numbers["x"] for name, numbers in record["parts"].items()} == {
        "first": 1,
        "last": 2,
    }
    assert record["overran"] == {"slow": "its limit", "crash": "broke off with exit code -6"}
    assert "running" not in record and time.monotonic() - begin < 30
    Record(tmp_path, "parity", {}).run({"slow": broken})  # a later call
    assert json.loads((tmp_path / "parity.json").read_text())["failed"] == {}


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Runs the command with stages that fail, or write what they are told; their names."""
    begun = []

    def run_stage(command, env, limit, results, copies, name):
        begun.append((name, limit))
        return "broke off"

    def job(*words):
        monkeypatch.setattr(run, "run_stage", run_stage)
        monkeypatch.setenv("FISHER_JAX_PACK", str(tmp_path))
        paths = ["--results", str(tmp_path / "results"), "--copy-to", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", ["run", *paths, *words])
        assert run.main() == 0
        return begun

    return job


def test_a_stage_that_fails_ends_no_other_and_the_model_is_missed_in_a_line(job, capsys):
    begun = job("--limit", "100", "--stages", "imports", "embedding", "selection")
    assert begun[0] == ("imports", 20) and [name for name, _ in begun] == ["imports", "selection"]
    assert 90 < begun[1][1] < 98.1  # not the 120 s of its own
    assert "left out: there is no" in capsys.readouterr().out


def test_no_stage_begins_when_time_is_up(job, capsys):
    assert job("--limit", "5", "--stages", "imports", "parity") == []
    assert capsys.readouterr().out.count("too little time") == 2


def test_results_of_two_calls_are_collected_by_card(tmp_path, monkeypatch, capsys):
    machine = {"card": "NVIDIA H100 80GB HBM3", "driver": "580.1", "jax": "0.11.2"}
    kept = SAME | {"machine": machine, "failed": {}, "left_out": {}, "ended": "done"}
    first, second = (tmp_path / name for name in ("first.json", "second.json"))
    write_json(first, {"parity": kept | {"parts": {"ties": {"errors": {"chosen": 1.23456e-6}}}}})
    write_json(second, {"parity": kept | {"parts": {"real": {"passed": True}}}})
    words = ["collect", str(first), str(second), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", words)
    collect.main()
    (path,) = (tmp_path / "out").iterdir()
    assert path.name == "nvidia_h100_80gb_hbm3.json"
    assert {*json.loads(path.read_text())["parity"]["parts"]} == {"ties", "real"}
    printed = capsys.readouterr().out
    assert "NVIDIA H100 80GB HBM3, 580.1, 0.11.2)" in printed
    assert "errors.chosen" in printed and "1.235e-06" in printed


def test_of_a_part_at_two_commits_the_newer_wins_and_each_part_keeps_its_commit(
    tmp_path, monkeypatch
):
    kept = {"machine": {"card": "H100", "git_commit": "of the machine"}, "ended": "done"}
    old = {"commit": "a" * 40, "parts": {"n5000": {"x": 1}, "sweep": {"x": 2}}}
    new = {"commit": "b" * 40, "dirty": True, "parts": {"n5000": {"x": 3}}, "overran": {"y": "z"}}
    for name, record in {"old": old, "new": new}.items():
        write_json(tmp_path / f"{name}.json", {"selection": kept | record})
        words = ["collect", str(tmp_path / f"{name}.json"), "--out", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", words)
        collect.main()
    stage = json.loads((tmp_path / "out" / "h100.json").read_text())["selection"]
    assert stage["parts"] == {
        "n5000": {"commit": "b" * 10 + " dirty", "x": 3},
        "sweep": {"commit": "a" * 10, "x": 2},
    }
    assert stage["machine"] == {"card": "H100"} and stage["overran"] == {"y": "z"}


def test_a_trace_is_summed_up_by_kernel():
    def event(name, duration, tid=1, module="jit_advance"):
        return {"pid": 1, "tid": tid, "name": name, "dur": duration, "args": {"hlo_module": module}}

    names = {1: "Stream #14(Compute)", 2: "python3"}
    trace = [
        {"pid": 1, "tid": tid, "name": "thread_name", "args": {"name": name}}
        for tid, name in names.items()
    ]
    trace += [event("gemm", 6.0), event("gemm", 6.0), event("potrf_reset_info<256>", 3.0)]
    trace += [event("MemcpyD2H", 1.0), event("Memset 3", 4.0)]
    trace += [event("gemm", 100.0, tid=2), event("gemm", 100.0, module="jit_start")]
    trace += [{"pid": 1, "tid": 1, "name": "without arguments", "dur": 1.0}]
    found = summary({"traceEvents": trace}, 2)
    assert found.pop("longest")[0] == {"kernel": "gemm", "a_choice": 1.0, "share": 0.6}
    assert found == {
        "choices": 2,
        "batches_a_choice": 0.5,
        "kernels_a_choice": 1.5,
        "device_to_host_copies_a_choice": 0.5,
        "busy_us_a_choice": 10.0,
    }
    with pytest.raises(LeftOut, match="no kernels"):
        summary({"traceEvents": trace[:2]}, 2)


def test_twins_are_equal_and_no_length_changes(emb):
    twins = with_twins(emb)
    assert (twins.lengths == emb.lengths).all()
    rows = [twins[i].tobytes() for i in range(len(twins))]
    pairs = sum(n // 2 for n in np.unique(emb.lengths, return_counts=True)[1])
    assert 0 < len(rows) - len({*rows}) <= pairs


def test_imports_are_found_wherever_they_stand():
    source = "import a.b, c\nfrom d.e import f\nfrom .g import k\ndef h():\n    import i\n"
    assert imported(source) == {"a", "c", "d", "i"}


def test_rankings_that_part_are_allowed_only_where_gains_are_equal(emb):
    gains = np.array([exact_gains(emb, np.array([i]))[0] for i in range(len(emb))])
    ours = np.array([gains.argmax(), gains.argmin()])
    assert compared(emb, ours, ours)["equal"]
    parted = compared(emb, ours, ours[::-1])
    assert not parted["allowed"]
    assert parted["first_difference"]["gains"] == pytest.approx(gains[ours])
