"""The fault suite tells what it finds, goes on where it was, and its page shows its results."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from faults import __main__ as suite
from faults import document, mutations
from faults.case import Case, Trial
from faults.mutator import damaged, damaged_json
from faults.processes import Disturbance, ended, renames
from faults.results import Result, read, run_case, table
from fisher_jax.util.errors import UserError


def fails(trial):
    trial.check(True, "not told")
    trial.check(False, "wrong")
    raise RuntimeError("worse")


def test_a_case_counts_what_it_tried_and_tells_each_fault():
    result = run_case("c", Case("kind", "name", fails), 0, iter([1.0, 3.5]).__next__)
    assert result.tried == 2 and result.seconds == 2.5
    assert result.faults[0] == "wrong" and "RuntimeError: worse" in result.faults[1]
    assert run_case("c", Case("kind", "name", lambda t: None), 0, lambda: 0.0).faults == []


def test_results_are_shown_as_tried_and_failed():
    results = [
        Result("a", "x", "1", 2500, [], 1.0),
        Result("a", "x", "2", 1, ["wrong"], 1.0),
        Result("b", "y", "1", 3, [], 1.0),
    ]
    lines = table(results).splitlines()
    assert lines[2:] == ["| a | x | 2,501 | 1 |", "| b | y | 3 | 0 |", "| all |  | 2,504 | 1 |"]


def test_a_run_goes_on_where_it_was_and_its_exit_code_tells(tmp_path, monkeypatch, capsys):
    done = []

    def cases(seed):
        for k in range(4):
            yield Case("kind", f"case {k}", lambda t, k=k: (done.append(k), t.check(k != 2, "two")))

    campaign = type("campaign", (), {"cases": staticmethod(cases)})
    monkeypatch.setattr(suite.importlib, "import_module", lambda name: campaign)
    path = tmp_path / "results.jsonl"

    def run(*more):
        argv = ["faults", "load", "--results", str(path), *more]
        monkeypatch.setattr(sys, "argv", argv)
        return suite.main()

    assert run("--seconds", "0") == 0 and done == [0]  # one of each campaign at least
    assert run("--full") == 1 and done == [0, 1, 2, 3]
    assert "load, case 2: two" in capsys.readouterr().err
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + lines[2][:9])  # killed while it wrote
    assert len(read(path)) == 2
    assert run("--full") == 1 and done == [0, 1, 2, 3, 2, 3]
    assert [result.name for result in read(path)] == [f"case {k}" for k in range(4)]
    assert run("--full") == 1 and done == [0, 1, 2, 3, 2, 3, 2]  # what failed is tried again
    assert capsys.readouterr().out.endswith("| all |  | 4 | 1 |\n")
    done.clear()
    assert run("--full", "--seed", "1") == 1 and done == [0, 1, 2, 3]  # others than those of seed 0
    assert [result.seed for result in read(path)][-4:] == [1] * 4
    assert capsys.readouterr().out.endswith("| all |  | 8 | 2 |\n")
    path.unlink()
    done.clear()
    assert run("--full", "--shard", "2/2") == 0 and done == [1, 3]


def test_the_page_shows_the_committed_results():
    results = read(document.KEPT)
    assert results and document.kept_table() in document.DOCUMENT.read_text()
    assert {result.campaign for result in results} <= {*suite.SHARES}


def test_a_child_is_ended_at_the_chosen_rename(tmp_path):
    watched = tmp_path / "watched"
    watched.mkdir()
    program = "import os, sys; p = sys.argv[1]\nfor k in range(4):\n"
    program += "    open(f'{p}/{k}.tmp', 'w').close(); os.replace(f'{p}/{k}.tmp', f'{p}/{k}')"
    argv = ["-c", program, watched]
    assert ended(argv, tmp_path, watched).code == 0
    assert len(renames(watched).read_text().splitlines()) == 4
    for path in watched.iterdir():
        path.unlink()
    killed = ended(argv, tmp_path, watched, Disturbance(signal.SIGKILL, rename=3))
    assert killed.code == -signal.SIGKILL
    assert sorted(p.name for p in watched.iterdir()) == ["0", "1", "2.tmp"]


def test_damage_is_the_same_for_a_seed_and_differs_between_seeds():
    content = json.dumps({"a": [1, {"b": "c"}], "d": 2.5}).encode()
    for change in (damaged, damaged_json):
        many = [change(content, random.Random(k)) for k in range(60)]
        assert many == [change(content, random.Random(k)) for k in range(60)]
        assert len(set(many)) > 40


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("a\nb"), "RuntimeError: a b"),
        (RecursionError("deep"), "RecursionError"),
        (ValueError("no UserError"), "ValueError"),
        (mutations.HangsError(), "hangs"),
    ],
)
def test_what_is_no_line_for_its_user_is_a_fault_of_a_reader(error, told, tmp_path):
    def read(folder):
        raise error

    kind = mutations.Kind("k", lambda folder: None, [], read)
    assert told in (mutations.fault_of(kind, tmp_path) or "")


def test_a_reader_that_is_aborted_is_a_fault_and_the_next_inputs_are_tried(tmp_path, monkeypatch):
    """The third input aborts it."""
    program = """if True:
        import json, os, sys
        begin, end, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
        with open(folder + "/told", "w") as told:
            for i in range(begin, end):
                if i == 2:
                    told.flush()
                    os.abort()
                told.write(json.dumps([i, None]) + "\\n")
    """
    real = mutations.started
    monkeypatch.setattr(
        mutations, "started", lambda argv, cache: real(["-c", program, *argv[-3:]], cache)
    )
    trial = Trial()
    mutations.read_block(trial, "k", 0, 0, 5, tmp_path)
    assert trial.tried == 5
    assert len(trial.faults) == 1 and trial.faults[0].startswith("input 2 ended its reader (-6)")


def test_the_command_of_the_suite_names_its_options():
    root = Path(__file__).parents[2]
    shown = subprocess.run(
        [sys.executable, "-m", "faults", "--help"], cwd=root, capture_output=True, text=True
    )
    assert shown.returncode == 0 and "--full" in shown.stdout


@pytest.mark.parametrize("name", mutations.KINDS)
def test_sound_files_are_read_and_damaged_ones_told(name, tmp_path):
    kind = mutations.KINDS[name]()
    kind.write(tmp_path)
    kind.read(tmp_path)
    for file in kind.damaged:
        (tmp_path / file).write_bytes(b"\x00\xff")
    with pytest.raises(UserError):
        kind.read(tmp_path)
