"""Every public name stands on the page of the Python API, and says what it takes."""

import importlib
import inspect
import re

import pytest

import fisher_jax as fj
from tests.helpers.code_blocks import ROOT

PAGE = (ROOT / "docs/api.md").read_text()
NAMES = re.findall(r"^::: ([\w.]+)", PAGE, re.MULTILINE)


def thing(name):
    """The object of a dotted name."""
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


@pytest.mark.parametrize("name", fj.__all__)
def test_a_public_name_is_on_the_page(name):
    assert f"::: fisher_jax.{name}" in PAGE or f"`fj.{name}" in PAGE


@pytest.mark.parametrize("name", NAMES)
def test_what_is_on_the_page_tells_each_argument(name):
    documented = thing(name)
    text = inspect.getdoc(documented)
    assert text
    is_record = inspect.isclass(documented) and issubclass(documented, tuple)
    told = documented._fields if is_record else inspect.signature(documented).parameters
    missing = [p for p in told if p != "self" and not re.search(rf"\b{p}\b", text)]
    assert missing == [], f"{name} does not say what {missing} is"
