"""What `fisher-select` says before it works."""

import numpy as np
import pytest

from fisher_jax.command.arguments import parser
from fisher_jax.command.messages import announce


@pytest.mark.parametrize(("dtype", "gib"), [("float32", "5.0"), ("bfloat16", "3.0")])
def test_the_models_own_memory_is_told(dtype, gib, capsys):
    args = parser().parse_args(["p.jsonl", "-o", "o.jsonl", "--n-samples", "1", "--dtype", dtype])
    announce(args, np.array([2]), np.array([2]), 8, [], n_parameters=2**30, n_fed=2)
    assert f"1 row, 2 tokens to learn, about {gib} GiB and " in capsys.readouterr().err
