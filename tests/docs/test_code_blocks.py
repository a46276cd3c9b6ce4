"""What README and docs tell to type works: Python runs, commands have the options that are told."""

import importlib.util
import re
import tomllib
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.run.conf import new_grid_keys
from experiments.run.harness import checked
from fisher_jax.command.arguments import parser
from fisher_jax.command.main import main
from fisher_jax.selectors import SELECTORS
from tests.helpers.cli import write_rows
from tests.helpers.code_blocks import PAGES, ROOT, blocks_of, commands_of
from tests.helpers.experiment_options import OPTIONS

MODEL = "smollm2-135m"
OTHERS = {"source", "git", "ls", ".ci/run"}  # nothing to check


def play(n):
    """Rows that the small model reads."""
    return [f"to be or not to be that is the question of day {i} and night" for i in range(n)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where blocks are run: the files that pages speak of are there."""
    for name, n in {"pool": 24, "task": 4, "held_out": 6, "chosen": 8}.items():
        write_rows(tmp_path / f"{name}.jsonl", [{"text": text} for text in play(n)])
    (tmp_path / "results").symlink_to(ROOT / "results")
    monkeypatch.chdir(tmp_path)
    rules = dict(SELECTORS)
    yield tmp_path
    SELECTORS.clear()  # a page adds one
    SELECTORS.update(rules)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run_in_their_order(page, folder, model_folder):
    names = {}
    for block in blocks_of(page):
        if not block.is_run:
            continue
        text = block.text.replace(MODEL, str(model_folder))
        if block.language == "python":
            exec(compile("\n" * (block.line - 1) + text, page, "exec"), names)
            continue
        for words in commands_of(block._replace(text=text)):
            if words[0] == "fisher-select":
                assert main([*words[1:], "--overwrite"]) == 0, block.place


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_have_the_options_that_pages_tell(page):
    for block in blocks_of(page):
        if block.language == "sh":
            for words in commands_of(block):
                check(words, block.place)


def check(words, place):
    """Refuse a command that could not be typed so."""
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    command = words[0].removeprefix(".venv/bin/")
    if command == "fisher-select":
        half = words[1] if words[1] in ("embed", "select") else ""
        if words[1] != "cache":
            parser(half).parse_args(words[2:] if half else words[1:])
    elif command == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets), place
    elif command == "pip":
        check_install(words, place)
    elif command == "python" and words[1] == "-m":
        check_module(words[2], words[3:], place)
    elif command == "python":
        assert (ROOT / words[1]).is_file(), place
    else:
        assert command in OTHERS, f"{place}: what is {command}?"


def check_install(words, place):
    """Extras are those of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extras in re.findall(r"\[([\w,]+)\]", " ".join(words)):
        assert set(extras.split(",")) <= set(project["optional-dependencies"]), place


def check_module(module, arguments, place):
    """The module is there, and Hydra composes its options."""
    assert importlib.util.find_spec(module) is not None, place
    name = module.rpartition(".")[2]
    if name not in OPTIONS:
        return
    given = new_grid_keys([a for a in arguments if a not in ("-m", "--multirun")])
    overrides = []
    for override in OverridesParser.create().parse_overrides(given):
        if override.key_or_group.startswith("hydra"):
            continue  # the launcher's, which its plugin brings
        is_sweep = override.is_sweep_override()
        strings = override.sweep_string_iterator() if is_sweep else iter(())
        value = next(strings, None) or override.get_value_element_as_str()
        overrides.append(f"{override.key_or_group}={value}")
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(ROOT / "conf" / name), version_base="1.3"):
        cfg = hydra.compose("config", overrides)
    checked(cfg, OPTIONS[name])


def test_a_page_is_more_than_its_blocks():
    assert Path(ROOT / "README.md") in PAGES and len(PAGES) > 5
    assert sum(block.is_run for page in PAGES for block in blocks_of(page)) >= 5
