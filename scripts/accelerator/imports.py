"""Stage: everything that the job imports, all that is missing told at once; the devices."""

import ast
import importlib
import importlib.metadata
import importlib.util
import os
import sys

import jax

from scripts.accelerator.layout import ROOT
from scripts.accelerator.record import Context, LeftOut, Numbers, Parts

OURS = ("fisher_jax", "experiments", "scripts")
OPTIONAL = ("torch", "accelerate", "peft", "openai", "datasketch", "wandb")
STAGE_MODULES = "parity selection embedding training synthetic language".split()


def parts(job: Context) -> Parts:
    """The parts of the stage."""
    return {"missing": missing, "devices": devices, "modules": modules}


def missing() -> Numbers:
    """Names of top-level modules that our code imports and that are not there."""
    names: set[str] = set()
    for folder in ("fisher_jax", "experiments", "scripts"):
        for path in (ROOT / folder).rglob("*.py"):
            names |= imported(path.read_text(encoding="utf-8"))
    names -= {*sys.stdlib_module_names, *OURS}
    absent = sorted(name for name in {*names, *OPTIONAL} if importlib.util.find_spec(name) is None)
    return {
        "missing": [name for name in absent if name not in OPTIONAL],
        "optional_missing": [name for name in absent if name in OPTIONAL],
    }


def imported(source: str) -> set[str]:
    """Top-level names of the modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def devices() -> Numbers:
    """What JAX computes on, and versions."""
    versions = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name and name.lower().startswith(("jax", "flax", "optax", "torch", "transformers")):
            versions[name] = distribution.version
    stats = jax.devices()[0].memory_stats() or {}
    return {
        "devices": [str(device) for device in jax.devices()],
        "kind": jax.devices()[0].device_kind,
        "memory_bytes": stats.get("bytes_limit"),
        "versions": versions,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def modules() -> Numbers:
    """Every stage's own modules, truly imported."""
    errors = {}
    names = [f"scripts.accelerator.{name}" for name in STAGE_MODULES]
    for name in [
        *names,
        "experiments.language.main",
        "experiments.softmax.synthetic",
        "gguf",
        "transformers",
    ]:
        try:
            importlib.import_module(name)
        except ImportError as error:
            errors[name] = str(error)
    if errors:
        raise LeftOut(f"can't be imported: {errors}")
    return {"imported": len(names)}
