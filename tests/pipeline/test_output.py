"""Outputs that are there whole or not at all, one run at a time."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fisher_jax as fj
from fisher_jax.data.pool_file import pool_of, read_pool
from fisher_jax.data.sets import SavedSet
from fisher_jax.pipeline import Output
from fisher_jax.report import FILES
from fisher_jax.util import files
from fisher_jax.util.errors import UserError
from fisher_jax.util.files import remove_leftovers, replacing_files
from fisher_jax.util.locks import only_writer, signals_held
from tests.helpers.cli import (
    EARLIER,
    K,
    leave_earlier_results,
    manifest_of,
    ranking_of,
    read_rows,
    snapshot,
    texts,
    write_embeddings,
    write_rows,
)

OF_FISHER = {*FILES} - {"judged.png"}  # what a report by information has


def ready_of(folder, n):
    """Ready embeddings of so many rows, as arguments."""
    write_embeddings(folder / "few.safetensors", (4,) * n)
    return ["--embeddings", folder / "few.safetensors"]


@pytest.fixture
def earlier(out):
    """Outputs of an earlier run, with another's file in the report's folder."""
    leave_earlier_results(out)
    return out.with_name(out.name + ".report")


@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_a_rename_comes_too_late(number, others, run, ready, out, earlier, monkeypatch):
    if others:  # then files move one by one
        (earlier / "mine.txt").write_text("mine")
    moved = []

    def signalled(real):
        def move(path, target):
            moved.append(path)
            signal.raise_signal(number)
            return real(path, target)

        return move

    monkeypatch.setattr(Path, "rename", signalled(Path.rename))
    monkeypatch.setattr(Path, "replace", signalled(Path.replace))
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)  # as on other systems
    code, messages = run(*ready, "-o", out, "--n-samples", K, "--overwrite")
    assert code == 0 and "interrupted" not in messages
    # the earlier folder goes, ours comes; or each file of ours comes, and the one too many goes
    assert len(moved) == (len(FILES) + 1 if others else 3)
    assert len(read_rows(out)) == K
    assert all((earlier / name).read_bytes() != EARLIER for name in OF_FISHER)
    mine = {"mine.txt"} if others else set()
    assert {path.name for path in earlier.iterdir()} == OF_FISHER | mine


def test_the_manifest_knows_the_output(run, ready, out):
    assert run(*ready, "-o", out, "--n-samples", K)[0] == 0
    assert manifest_of(out)["result"]["out_sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()


def test_a_folder_of_datasets_is_an_output_as_files_are(run, ready, refused, tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs: pip install -e '.[data]'")
    pool, out = write_rows(tmp_path / "p.jsonl", [{"text": t} for t in texts()]), tmp_path / "out"
    argv = [pool, *ready, "-o", out, "--n-samples", K]
    assert run(*argv)[0] == 0
    first = datasets.load_from_disk(out)[:]
    refused(argv, [out, "exists", "--overwrite"])
    assert run(*argv, "--overwrite")[0] == 0
    assert datasets.load_from_disk(out)[:] == first
    assert first["text"] == [texts()[i] for i in ranking_of(out)["index"]]
    again = tmp_path / "again.jsonl"
    assert run(out, "-o", again, *ready_of(tmp_path, K), "--n-samples", 1)[0] == 0
    assert manifest_of(again)["result"]["pool_sha256"] == manifest_of(out)["result"]["out_sha256"]
    (out / "mine.txt").write_text("mine")
    refused([*argv, "--overwrite"], [out, "is a folder"])


def test_columns_of_an_earlier_selection_go(run, ready, out, tmp_path):
    earlier = {"fisher_rank": 1, "fisher_gain": 2.0, "fisher_weight": 3.0}
    rows = [{"text": text, "n": 1} | earlier for text in texts()]
    for name in ("p.jsonl", "p.parquet"):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
        write_rows(tmp_path / "p.jsonl", rows)
        written = out.with_suffix(Path(name).suffix)
        assert run(tmp_path / name, *ready, "-o", written, "--n-samples", K)[0] == 0
        chosen = read_pool(written).content.records(range(K))
        assert all({*row} == {"text", "n", "fisher_rank", "fisher_gain"} for row in chosen)


def test_a_report_of_its_own_folder_is_replaced_by_a_rename(run, ready, out, earlier):
    before = earlier.stat().st_ino
    assert run(*ready, "-o", out, "--n-samples", K, "--overwrite")[0] == 0
    assert earlier.stat().st_ino != before and {p.name for p in earlier.iterdir()} == OF_FISHER
    (earlier / "mine.txt").write_text("mine")
    before = earlier.stat().st_ino
    assert run(*ready, "-o", out, "--n-samples", K, "--overwrite")[0] == 0
    assert earlier.stat().st_ino == before and (earlier / "mine.txt").read_text() == "mine"


@pytest.fixture
def interruptible():
    """Ctrl-C is a KeyboardInterrupt, also where the tests were started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_library_s_caller_gets_the_signal_afterwards(out, tmp_path, interruptible):
    choice = fj.choose(embeddings=write_embeddings(tmp_path / "emb.safetensors"), n_samples=K)
    real = Output.check_earlier
    checked = []

    def check(output):
        checked.append(output)
        if len(checked) == 3:  # the last
            signal.raise_signal(signal.SIGINT)
        real(output)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Output, "check_earlier", check)
        with pytest.raises(KeyboardInterrupt):
            choice.write(out)
    assert len(checked) == 3 and len(read_rows(out)) == K


def test_held_signals_come_once_and_handlers_are_there_again():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with signals_held():
            for _ in range(3):
                signal.raise_signal(signal.SIGTERM)
            assert seen == []
        assert seen == [signal.SIGTERM]
        signal.raise_signal(signal.SIGTERM)
        assert len(seen) == 2
    finally:
        signal.signal(signal.SIGTERM, before)


def hold(path, has_it, may_end):
    with only_writer(path):
        has_it.set()
        may_end.wait(60)


@pytest.mark.parametrize("what", ["out", "report"])
def test_two_runs_do_not_write_one_output(what, refused, ready, out, tmp_path):
    path = out if what == "out" else tmp_path / "report"
    has_it, may_end = (multiprocessing.get_context("spawn").Event() for _ in "ab")
    process = multiprocessing.get_context("spawn").Process(
        target=hold, args=(path, has_it, may_end)
    )
    process.start()
    try:
        assert has_it.wait(60)
        argv = [*ready, "-o", out, "--report-dir", tmp_path / "report", "--n-samples", K]
        refused(argv, [f"another run is writing {path}: wait for it"])
    finally:
        may_end.set()
        process.join()
    assert not [*tmp_path.rglob("*.lock")]


def test_what_a_killed_run_left_is_removed(run, ready, out, tmp_path):
    report = out.with_name(out.name + ".report")
    left = [out.with_name(f".{out.name}.abcdefgh.tmp"), out.with_name(f".{out.name}.lock")]
    left[0].write_bytes(EARLIER)
    left[1].write_bytes(b"")
    folder = report.with_name(f".{report.name}.a_cdefg1.tmp")
    folder.mkdir()
    (folder / "gain.png").write_bytes(EARLIER)
    others = [out.with_name(f".{out.name}.tmp"), out.with_name(".another.abcdefgh.tmp")]
    for path in others:
        path.write_bytes(EARLIER)
    assert run(*ready, "-o", out, "--n-samples", K)[0] == 0
    assert {*out.parent.iterdir()} == {out, report, *others}


@pytest.mark.parametrize("what", ["pool", "embeddings"])
def test_a_source_that_changes_while_it_is_read_is_told(
    what, run, ready, out, tmp_path, monkeypatch
):
    import fisher_jax.pipeline.sources as reading
    from fisher_jax.data.formats import JsonLines

    pool = tmp_path / "p.jsonl"
    pool.write_text("".join(json.dumps({"x": i}) + "\n" for i in range(8)))
    module, name = (JsonLines, "read") if what == "pool" else (reading, "read_embeddings")
    real = getattr(module, name)

    def growing(*args):
        read = real(*args)
        with (pool if what == "pool" else args[0]).open("ab") as file:
            file.write(b" ")
        return read

    monkeypatch.setattr(module, name, growing)
    code, messages = run(pool, *ready, "-o", out, "--n-samples", K)
    assert code == 2 and "changed while it was read" in messages
    assert [*out.parent.iterdir()] == []


def test_a_saved_set_that_changes_while_it_is_read_is_told(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="needs: pip install -e '.[data]'")
    datasets.Dataset.from_list([{"text": "a b"}]).save_to_disk(tmp_path / "set")
    (state,) = (tmp_path / "set").glob("state.json")

    def changing(*args, real=SavedSet.read):
        read = real(*args)
        state.write_bytes(state.read_bytes().swapcase())  # as long as before
        return read

    monkeypatch.setattr(SavedSet, "read", changing)
    with pytest.raises(UserError, match=r"set/\S+ changed while it was read"):
        read_pool(tmp_path / "set")


def test_a_report_in_a_folder_whose_parent_is_not_ours_is_written(run, ready, out, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    report = tmp_path / "theirs" / "report"
    report.mkdir(parents=True)
    report.parent.chmod(0o555)
    try:
        assert run(*ready, "-o", out, "--report-dir", report, "--n-samples", K)[0] == 0
    finally:
        report.parent.chmod(0o755)


def test_no_output_is_refused_before_it_is_reserved(tmp_path):
    choice = fj.choose(embeddings=write_embeddings(tmp_path / "emb.safetensors"), n_samples=K)
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match="does not exist: make it first"):
        choice.write(tmp_path / "none" / "chosen.jsonl")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("free, n, fits", [(10_000, 1, False), (2_000_000, 1, True)])
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_disk_without_room_is_told_before_the_work(
    free, n, fits, suffix, refused, run, ready, out, monkeypatch
):
    usage = shutil.disk_usage(out.parent)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    argv = [*ready, "-o", out.with_suffix(suffix), "--n-samples", n, "--dry-run"]
    if fits:
        assert run(*argv)[0] == 0
    else:
        refused(argv, ["0.1 MB", "0.0 MB are free in", out.parent, "make room"])


def test_the_room_for_chosen_rows_is_their_share_of_the_pool(out, monkeypatch):
    pool = pool_of([{"text": "x" * 999_990}] * 10)  # ten million bytes as JSON
    usage = shutil.disk_usage(out.parent)
    room = Output.of(out)
    for free, share in [(2_700_000, 0.5), (2_500_000, 0.5), (700_000, 0.1)]:
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage._replace(free=free))
        if free == 2_500_000:
            with pytest.raises(UserError, match=r"about 2\.6 MB, and 2\.5 MB are free"):
                room.check_room(pool, share)
        else:
            room.check_room(pool, share)


def test_shards_of_a_table_are_measured_as_they_are_written(out, tmp_path):
    for k in range(2):
        table = pa.table({"text": ["a b"], "x": pa.array([b"\xff"], pa.binary())})
        pq.write_table(table, tmp_path / f"{k}.parquet")
    pool = read_pool([str(tmp_path / f"{k}.parquet") for k in range(2)])
    Output.of(out.with_suffix(".parquet")).check_room(pool, 1.0)


@pytest.mark.parametrize("pattern", ["", "*.jsonl"])
def test_an_output_that_the_next_run_would_read_is_refused(pattern, refused, tmp_path):
    write_rows(tmp_path / "p.jsonl", [{"text": "a b"}] * 3)
    out = tmp_path / "chosen.jsonl"
    argv = [tmp_path / pattern, "--model", "none", "--n-samples", 1, "-o", out]
    if pattern:
        out.write_text("{}\n")
        refused([*argv, "--overwrite"], [out, "which is read"])
    else:
        refused(argv, [out, "is inside", tmp_path, "name a place outside"])


def test_reports_of_one_name_below_missing_folders_are_written_side_by_side(tmp_path):
    one, other = tmp_path / "1" / "report", tmp_path / "2" / "report"
    with only_writer(one), only_writer(other):
        with replacing_files(one) as temporary:
            (temporary / "a").write_text("")
            remove_leftovers(other)
            assert temporary.exists()
        with pytest.raises(UserError, match="another run is writing"), only_writer(other):
            pass
    assert (one / "a").exists() and [*tmp_path.iterdir()] == [one.parent]
