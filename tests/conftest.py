"""Test-wide settings: what needs PyTorch is left out, and named, where it isn't installed."""

import contextlib
import gc
import importlib.util
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import fisher_jax as fj
from experiments.corpora.corpora import shakespeare
from fisher_jax.command.compiled import SWITCH
from fisher_jax.command.main import main
from fisher_jax.design import buckets
from fisher_jax.models.load import SMOLLM2, load_model
from fisher_jax.util import platforms
from fisher_jax.util.platforms import PLATFORMS, here
from fisher_jax.util.user_folder import CACHE_SWITCH
from tests.helpers.cli import save_llama, snapshot, write_embeddings
from tests.helpers.compiling import QUICKLY
from tests.helpers.endpoint_server import Server
from tests.helpers.references import DIM, N, random_pool
from tests.helpers.small_models import llama_checkpoint, word_tokenizer_files

os.environ |= {SWITCH: "off", CACHE_SWITCH: "off"}  # tests keep nothing in the user's folder
if "XLA_FLAGS" not in os.environ:  # before the first program
    os.environ |= QUICKLY
LONGEST = [  # files that take a minute or so: begun first, no process waits for the last of them
    "experiments/test_experiments.py",
    "models/test_generate.py",
    "training/test_finetune.py",
    "design/test_selection.py",
    "experiments/test_language.py",
    "command/test_compiled.py",
    "design/test_mesh.py",
    "docs/test_code_blocks.py",
    "experiments/test_calibration.py",
    "scripts/test_embed_shards.py",
    "models/test_export.py",
    "scoring/test_endpoint.py",
]
PARITY = [name for name in ("torch", "accelerate") if importlib.util.find_spec(name) is None]


@pytest.fixture(scope="session")
def examples():
    """A small pool of rows of a few lengths."""
    return random_pool(0, N, [1, 3, 8], DIM)


@pytest.fixture(scope="session")
def emb(examples):
    """The same as one object."""
    return fj.TokenEmbeddings.from_list(examples)


@pytest.fixture(scope="session")
def theta(emb):
    """A last layer of four labels for it."""
    return np.random.default_rng(1).standard_normal((emb.dim, 4)).astype(np.float32)


@pytest.fixture(scope="session")
def sentences():
    """All of Shakespeare's."""
    return [row["text"] for row in shakespeare()]


@pytest.fixture(scope="session")
def smollm2():
    """The real model."""
    return load_model(SMOLLM2)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A tiny model that reads Shakespeare."""
    from tests.helpers.word_model import save_play_model  # brings transformers

    return save_play_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def compilation(request):
    """LLVM optimises only what computes much; small programs compile in half the time without."""
    marked = request.node.get_closest_marker("optimised")
    large = marked or "smollm2" in request.fixturenames
    jax.config.update("jax_disable_most_optimizations", not large)


@pytest.fixture(scope="module", autouse=True)
def room_for_programs():
    """Compiled programs go when there are many: a process can map so much and no more.

    Past that limit, 65,530 on Linux, the compiler ends the process by a segmentation fault.
    """
    yield
    with contextlib.suppress(OSError):  # other systems have no such file
        if Path("/proc/self/maps").read_bytes().count(b"\n") > 20_000:
            jax.clear_caches()
            gc.collect()


@pytest.fixture
def no_rank_promotion():
    """An array of lower rank is never stretched unasked in our own kernels."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def small_buckets(monkeypatch):
    """Small pools have as many batches, kinds of them and length buckets as large ones."""
    monkeypatch.setattr(buckets, "SHAPE_SIZE", 1)
    monkeypatch.setattr(platforms, "MIN_ROWS", 8)
    cpu = platforms.PLATFORMS["cpu"]._replace(batch_cost=1.0, block=3)
    monkeypatch.setitem(platforms.PLATFORMS, "cpu", cpu)


@pytest.fixture
def device(monkeypatch):
    """Changes the sizes that the table gives for this device."""

    def change(**sizes):
        monkeypatch.setitem(PLATFORMS, here().name, here()._replace(**sizes))

    return change


@pytest.fixture
def device_memory(monkeypatch):
    """Says how many bytes the device has."""

    def change(n_bytes):
        card = SimpleNamespace(memory_stats=lambda: {"bytes_limit": n_bytes})
        monkeypatch.setattr("jax.local_devices", lambda: [card])

    return change


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    """No test sends a key of whoever runs it."""
    for name in ("OPENAI_API_KEY", "OTHER_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def serve():
    """Starts endpoints, and stops them at the end."""
    pytest.importorskip("openai", reason="needs openai: pip install 'fisher-jax[judge]'")
    servers = []

    def start(reply):
        server = Server(reply)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def run(capsys):
    """Run the command: its exit code and stderr. Nothing ever goes to stdout."""

    def run(*argv):
        code = main([str(word) for word in argv])
        printed, messages = capsys.readouterr()
        assert printed == ""
        return code, messages

    return run


@pytest.fixture
def refused(run, tmp_path):
    """Run it on bad input: code 2, one line with these words, and every file as it was."""

    def refused(argv, words):
        before = snapshot(tmp_path)
        code, messages = run(*argv)
        assert code == 2
        assert messages.startswith("fisher-select: error: ")
        assert messages.endswith("\n") and messages.count("\n") == 1 and "\r" not in messages
        for word in words:
            assert str(word) in messages
        assert snapshot(tmp_path) == before

    return refused


@pytest.fixture
def out(tmp_path):
    """Where chosen rows go to, beside other people's files."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "chosen.jsonl"


@pytest.fixture
def ready(tmp_path):
    """Ready embeddings as arguments."""
    write_embeddings(tmp_path / "emb.safetensors")
    return ["--embeddings", tmp_path / "emb.safetensors"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """The folder of a one-layer Llama."""
    return save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def llama_folder(tmp_path):
    """Another, of two layers and every kind of tensor."""
    folder = llama_checkpoint().save(tmp_path / "llama")
    word_tokenizer_files(folder)
    return folder


def pytest_collection_finish():
    """What is there by now stays: looking for garbage in it would take a tenth of the time."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


def pytest_collection_modifyitems(config, items):
    """The longest files first; what needs PyTorch is left out where there is none."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
    for item in items:
        if PARITY and item.get_closest_marker("parity"):
            item.add_marker(pytest.mark.skip(reason=_NEEDS_TORCH))


_NEEDS_TORCH = "needs PyTorch: pip install -e '.[parity]'"


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", [])  # of all workers
    left_out = [report for report in skipped if _NEEDS_TORCH in str(report.longrepr)]
    if left_out:
        terminalreporter.write_line(
            f"{len(left_out)} tests against PyTorch were left out ({', '.join(PARITY)} missing): "
            "pip install -e '.[parity]' (a CPU build of torch will do), then run them again"
        )
        for report in left_out:
            terminalreporter.write_line(f"  {report.nodeid}")
