import importlib.metadata
import subprocess

import pytest

from fisher_jax.command.arguments import parser
from fisher_jax.util import provenance


@pytest.fixture
def repository(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True)

    git("init", "-q")
    (tmp_path / "code.py").write_text("a = 1\n")
    git("add", "code.py")
    git("commit", "-q", "-m", "first")
    return tmp_path


def test_a_changed_tree_is_told(repository):
    clean = provenance._git(repository)
    assert len(clean["git_commit"]) == 40 and clean["git_tree"] == "clean"
    (repository / "code.py").write_text("a = 2\n")
    assert provenance._git(repository) == clean | {"git_tree": "changed"}
    (repository / "code.py").write_text("a = 1\n")
    (repository / "new.py").write_text("")
    assert provenance._git(repository)["git_tree"] == "changed"
    (repository / "inside").mkdir()
    assert provenance._git(repository / "inside") == {}


def test_packages_without_metadata_have_an_unknown_version(monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name in ("fisher-jax", "gguf"):
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    facts = provenance.provenance()
    assert facts["fisher-jax"] == facts["gguf"] == "unknown" and facts["jax"] == real("jax")
    assert parser().format_usage().startswith("usage: fisher-select")
