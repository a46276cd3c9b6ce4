"""How soon the command answers, and what it loads for that."""

import subprocess
import sys

import pytest

HEAVY = ["jax", "flax", "transformers", "matplotlib", "pyarrow", "scipy", "sklearn", "tqdm"]
PROGRAM = f"""
import sys
from fisher_jax.command.main import main
try:
    main(sys.argv[1:])
finally:
    print("loaded:", [name for name in {HEAVY} if name in sys.modules])
"""


@pytest.mark.parametrize("flag", ["--help", "--version", "--list-selectors"])
def test_what_needs_no_work_loads_nothing_heavy(flag):
    done = subprocess.run([sys.executable, "-c", PROGRAM, flag], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "loaded: []", done.stderr
    assert len(done.stdout.splitlines()) > 1


def test_wrong_arguments_load_nothing_heavy():
    argv = [sys.executable, "-c", PROGRAM, "--nope"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.stdout == "loaded: []\n" and "fisher-select: error: " in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
def test_too_little_address_space_is_told_before_anything_heavy_is_loaded():
    limited = "import resource; resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9))" + PROGRAM
    argv = [sys.executable, "-c", limited, "pool.jsonl", "-o", "out.jsonl", "--n-samples", "3"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.stdout == "loaded: []\n"
    assert done.stderr.startswith("fisher-select: error: this process may use 1.0 GB of address")


def test_the_library_s_names_are_there_without_loading():
    program = (
        "import sys, fisher_jax as fj; assert 'jax' not in sys.modules; "
        "assert callable(fj.choose) and callable(fj.select) and 'choose' in fj.__all__; "
        "from fisher_jax import *"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_figures_are_drawn_without_pyplot():
    program = (
        "import sys, numpy as np; from fisher_jax.report.figures import gain_curve; "
        "gain_curve(np.ones(3)); assert 'matplotlib.pyplot' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
