"""Files that come whole or not at all: earlier ones, and a full disk."""

import resource
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from fisher_jax.util import files
from fisher_jax.util.files import remove_leftovers, replacing, replacing_files


@pytest.fixture
def small_files():
    """No file may have more than 64 kB, which fails as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_told_with_path_sizes_and_remedy(small_files, tmp_path):
    out = tmp_path / "out.bin"
    out.write_bytes(b"earlier")
    told = pytest.raises(OSError, match=r"out.bin can't be written: 0.1 MB of it were, and")
    with told as error, replacing(out) as temporary:
        temporary.write_bytes(bytes(1 << 17))
    assert "MB are free; make room or name another place, and run again" in str(error.value)
    told = pytest.raises(OSError, match=r"report can't be written")
    with told, replacing_files(tmp_path / "report") as folder:
        (folder / "page").write_bytes(bytes(1 << 17))
    told = pytest.raises(OSError, match=r"out.bin can't be written: .* MB of it were, and")
    with told, replacing(out) as temporary:  # which has an error of its own
        save_file({"x": np.zeros(1 << 17, np.uint8)}, temporary)
    assert list(tmp_path.iterdir()) == [out] and out.read_bytes() == b"earlier"


def test_earlier_files_of_ours_go_and_come_back_where_a_move_fails(tmp_path):
    folder, ours = tmp_path / "report", ("page", "figure", "table")
    folder.mkdir()
    for name in ("page", "figure", "notes"):
        (folder / name).write_text(f"earlier {name}")
    with replacing_files(folder, ours) as temporary:
        (temporary / "page").write_text("new page")
    kept = {path.name: path.read_text() for path in folder.iterdir()}
    assert kept == {"page": "new page", "notes": "earlier notes"}
    (folder / "table").mkdir()
    with pytest.raises(IsADirectoryError), replacing_files(folder, ours) as temporary:
        for name in ("page", "table"):
            (temporary / name).write_text("newer")
    assert (folder / "page").read_text() == "new page" and (folder / "table").is_dir()


@pytest.mark.parametrize("at_once", [True, False])
def test_a_kill_between_two_renames_loses_no_earlier_folder(at_once, tmp_path, monkeypatch):
    folder, rename = tmp_path / "report", Path.rename
    folder.mkdir()
    (folder / "page").write_text("earlier")
    if not at_once:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    seen = []

    def watched(path, target):
        there = {p.name: p.read_text() for p in folder.glob("*")}
        if not there:  # what a kill would leave now
            for left in tmp_path.glob(".report.*"):
                shutil.copytree(left, tmp_path / "copy" / left.name)
        seen.append(there)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", watched)
    with replacing_files(folder, ["page"]) as temporary:
        (temporary / "page").write_text("new")
    assert [*tmp_path.glob(".*")] == [] and (folder / "page").read_text() == "new"
    assert seen == ([] if at_once else [{"page": "earlier"}, {}])
    if not at_once:
        killed = tmp_path / "copy" / "report"
        (tmp_path / "link").symlink_to(killed)
        remove_leftovers(tmp_path / "link")
        assert (killed / "page").read_text() == "earlier"
        assert [*killed.parent.iterdir()] == [killed]
