"""Test-wide settings: what needs PyTorch is left out, and named, where it isn't installed."""

import importlib.util

import jax
import pytest

from fisher_jax import greedy

PARITY = [name for name in ("torch", "accelerate") if importlib.util.find_spec(name) is None]


@pytest.fixture
def no_rank_promotion():
    """An array of lower rank is never stretched unasked in our own kernels."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def small_buckets(monkeypatch):
    """Small pools have as many length buckets as large ones."""
    monkeypatch.setattr(greedy, "BUCKET_SIZE", 1)


def pytest_collection_modifyitems(config, items):
    left_out = [item for item in items if PARITY and item.get_closest_marker("parity")]
    for item in left_out:
        item.add_marker(pytest.mark.skip(reason="needs PyTorch: pip install -e '.[parity]'"))
    config.stash[_LEFT_OUT] = left_out


_LEFT_OUT = pytest.StashKey[list]()


def pytest_terminal_summary(terminalreporter, config):
    left_out = config.stash.get(_LEFT_OUT, [])
    if left_out:
        terminalreporter.write_line(
            f"{len(left_out)} tests against PyTorch were left out ({', '.join(PARITY)} missing): "
            "pip install -e '.[parity]' (a CPU build of torch will do), then run them again"
        )
        for item in left_out:
            terminalreporter.write_line(f"  {item.nodeid}")
