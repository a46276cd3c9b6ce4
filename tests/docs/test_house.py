"""What the house keeps to."""

import ast
from collections import defaultdict

from tests.helpers.code_blocks import ROOT

SHARED = {"Options"}  # of each experiment: the name is what its start looks for


def test_no_two_classes_have_one_name():
    places = defaultdict(list)
    for folder in ("fisher_jax", "experiments", "scripts", "faults"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef):
                    places[node.name].append(path)
    assert len(places) > 100
    assert {name: of for name, of in places.items() if len(of) > 1 and name not in SHARED} == {}
