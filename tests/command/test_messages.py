"""What `fisher-select` says before it works, and how it writes the library's options."""

import numpy as np
import pytest

from fisher_jax.command.arguments import flags
from fisher_jax.command.errors import in_flags
from fisher_jax.pipeline import Request
from fisher_jax.pipeline.plan import plan


@pytest.mark.parametrize(("dtype", "gib"), [("float32", "5.0"), ("bfloat16", "3.0")])
def test_the_models_own_memory_is_told(dtype, gib):
    request = Request(pool="p.jsonl", model="m", n_samples=1, dtype=dtype)
    planned = plan(request, np.array([2]), np.array([2]), 8, n_parameters=2**30, n_fed=2)
    assert f"1 row, 2 tokens to learn, about {gib} GiB and " in str(planned)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "give exactly one of `n_samples`, `fraction`",
            "give exactly one of --n-samples, --fraction",
        ),
        ("pass `on_empty=skip` to leave them out", "pass --on-empty skip to leave them out"),
        ("`out` must end in .jsonl: `pool` is read", "OUT must end in .jsonl: POOL is read"),
        ("a row holds `theta=1` and on_empty=1", "a row holds `theta=1` and on_empty=1"),
    ],
)
def test_options_are_written_as_flags(message, said):
    assert in_flags(message, flags()) == said
