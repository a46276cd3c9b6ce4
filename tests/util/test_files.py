"""What a full disk leaves behind, and what it is told as."""

import resource
import signal

import pytest

from fisher_jax.util.files import replacing, replacing_files


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
    assert list(tmp_path.iterdir()) == [out] and out.read_bytes() == b"earlier"
