"""Model families, a folder each: what their files call things, and their module if it is another.

A new family is a new folder with a `FAMILY`; nothing else changes.
"""

import functools
import importlib
import pkgutil

from fisher_jax.models.decoder import Sizes
from fisher_jax.models.families.family import Family, Names

__all__ = ["Family", "Names", "all_families", "family_of", "of_architecture", "of_model_type"]


@functools.cache
def all_families() -> dict[str, Family]:
    """All families by the names of their folders."""
    folders = sorted(m.name for m in pkgutil.iter_modules(__path__) if m.ispkg)
    return {name: importlib.import_module(f"{__name__}.{name}").FAMILY for name in folders}


def of_model_type(name: object) -> Family | None:
    """The family of config.json's `model_type`, if there is one."""
    return next((f for f in all_families().values() if name in f.model_types), None)


def of_architecture(name: object) -> Family | None:
    """The family of a GGUF's `general.architecture`, if there is one."""
    return next((f for f in all_families().values() if f.architecture == name), None)


def family_of(config: Sizes) -> Family:
    """The family of a configuration."""
    return all_families()[config.family]
