"""RESULTS.md and the pages of results/ say what the data say, and no number is typed by hand."""

import ast
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from omegaconf import OmegaConf

from experiments.report import committed, main, runs
from experiments.report.committed import KEPT, ROOT, Kept, keep, read_run
from experiments.report.compare import compare
from experiments.report.figures import draw
from experiments.report.runs import Run
from experiments.run.results import read_rows
from experiments.run.sweeps import read_sweep
from experiments.softmax import synthetic
from fisher_jax.selectors.registry import MEASURED
from fisher_jax.util.errors import UserError
from tests.helpers.experiment_options import SMALL, options

NAMES = re.compile(
    r"`[^`]*`|\]\([^)]*\)|https?://\S+|SmolLM2-135M|SmolLM2|GPT-2|GPT-4o|gsm8k|Q4_1|4-bit"
    r"|float32|float64|95%|6B|Lemma 3\.1"
)  # digits that are no measured number


@pytest.fixture(scope="module")
def all_runs():
    return main.kept_runs()


@pytest.fixture(scope="module")
def rendered(all_runs):
    """Every page, without the figures; which figures they show."""
    with pytest.MonkeyPatch.context() as patch:
        shown = []
        patch.setattr(runs, "draw", lambda *args: None)
        patch.setattr(runs, "forest", lambda *args, **more: None)
        patch.setattr("experiments.report.language_runs.forest", lambda *args: None)
        patch.setattr("experiments.report.language_runs.parts", lambda *args: None)
        patch.setattr("experiments.report.language_runs.learning_curves", lambda *args: None)
        patch.setattr(runs, "save", lambda figure, path: shown.append(path))
        return main.pages(all_runs), shown


def test_the_committed_pages_are_what_the_data_say(rendered):
    texts, shown = rendered
    assert {*texts} == {ROOT / "RESULTS.md", MEASURED, *KEPT.glob("*/*/README.md")}
    for path, text in texts.items():
        assert path.read_text() == text, f"{path}: run make figures"
    assert {*shown} == {*KEPT.glob("*/*/*.png")}


def test_the_front_page_is_short_and_its_links_lead_somewhere(rendered):
    text = rendered[0][ROOT / "RESULTS.md"]
    assert len(text.splitlines()) <= 150
    assert "4-bit Instruct" in text or "SmolLM2-135M-Instruct, from the 4-bit GGUF" in text
    for path, page in rendered[0].items():
        links = [link for link in re.findall(r"\]\(([^)]*)\)", page) if "//" not in link]
        assert all((path.parent / link).exists() for link in links), path


def test_no_template_has_a_number_outside_its_lookups():
    for path in main.PAGES.rglob("*.j2"):
        prose = re.sub(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", "", path.read_text(), flags=re.S)
        assert not re.findall(r".*\d.*", NAMES.sub("", prose)), path


def test_no_claim_has_a_number_outside_its_lookups():
    code = ast.parse((main.PAGES.parent / "claims.py").read_text())
    texts = [n for f in ast.walk(code) if isinstance(f, ast.JoinedStr) for n in f.values]
    texts += [n for n in ast.walk(code) if isinstance(n, ast.Constant)]
    words = [n.value for n in texts if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    assert len(words) > 100
    prose = [NAMES.sub("", word) for word in words if " " in word]
    assert not [text for text in prose if re.search(r"\d", text)]


def test_every_run_tells_options_that_the_command_has_no_more(all_runs):
    """Committed results are of today's options, or their page says which differ."""
    for name, run in all_runs.items():
        page = (run.folder / "README.md").read_text()
        assert (run.changed in page) and bool(run.changed) == ("has other options today" in page)
        assert run.facts["own_streams"] == ("Made before every rule drew" not in page), name


def test_changed_options_are_told(monkeypatch):
    run = Run("synthetic", "bias")
    assert run.changed == ""
    run.options = OmegaConf.merge(run.options, {"dim": 7})
    assert run.changed == "`dim=7` (today `10`)"


def test_the_script_of_the_docs_reads_the_data(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    (script,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs/reading_results.md").read_text(), re.S
    )
    assert len([line for line in script.splitlines() if line]) <= 10
    names = {}
    exec(script, names)  # as a reader runs it
    run = Run("synthetic", "paper")
    n = run.ns[0]
    mean = run.estimate_against("fisher", "mean_logit", equal="tokens", n=n).mean
    told = 100 * np.expm1(names["ratio"]["fisher"]["mean"][n])
    assert told == pytest.approx(mean, rel=1e-3)
    assert capsys.readouterr().out.startswith("selector")


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """A small run's folder."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    grid = {"dim": [2]}
    synthetic.run(options(**SMALL | {"selectors": ["uniform", "longest"], "grid": grid}), folder)
    return folder


def test_kept_rows_are_the_runs_rows(small_run, tmp_path):
    run = read_run(small_run)
    extra = {"shares": {"own": 0.5}, "texts": ["a"], "test_nll": [0.123456, 12.5], "steps": 3}
    rows = [*run.rows[:-1], run.rows[-1] | extra | {"chosen": [1, 2]}]
    keep(Kept(rows, run.options, run.facts), tmp_path / "synthetic/mine")
    again = read_run(tmp_path / "synthetic/mine")
    assert again.rows == rows and again.options == run.options
    assert again.facts == {"own_streams": again.facts["own_streams"]} | run.facts


def test_whether_a_commit_has_streams_is_asked_of_the_history():
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert committed.has_streams({"git_commit": head})
    of_old_rows = {"git_commit": head, "git_commits": ["unknown", head]}
    assert not committed.has_streams(of_old_rows)
    assert not committed.has_streams({"git_commit": head, "own_streams": False})
    assert not committed.has_streams({"git_commit": "unknown"}) and not committed.has_streams({})


def test_runs_and_sweeps_are_collected(small_run, tmp_path, monkeypatch):
    (tmp_path / "conf/synthetic/experiment").mkdir(parents=True)
    for name in ("mine", "partial", "swept", "not_run", "smoke"):
        (tmp_path / f"conf/synthetic/experiment/{name}.yaml").write_text("")
        if name != "not_run":
            target = {"swept": "multirun/swept/job"}.get(name, name)
            shutil.copytree(small_run, tmp_path / "outputs/synthetic" / target)
    monkeypatch.setattr(committed, "CONF", tmp_path / "conf")
    monkeypatch.setattr(committed, "KEPT", tmp_path / "results")
    folders = [tmp_path / "results/synthetic" / name for name in ("mine", "swept")]
    partial = tmp_path / "outputs/synthetic/partial/config.yaml"
    whole = OmegaConf.load(partial)
    OmegaConf.save(OmegaConf.merge(whole, {"grid": {"dim": [2, 3, 4]}}), partial)
    for place in ("conf", "outputs"):  # a study that grows in slices
        shutil.copytree(tmp_path / place / "synthetic", tmp_path / place / "language")
    judged = tmp_path / "results/synthetic/mine/judged.json"
    judged.parent.mkdir(parents=True)
    judged.write_text("[]")  # of an earlier run
    assert [*committed.collect(tmp_path / "outputs")] == [
        "synthetic/mine: taken over",
        "synthetic/partial: left out, 2 of its settings are not finished",
        "synthetic/swept: taken over",
        *(f"language/{name}: taken over" for name in ("mine", "partial", "swept")),
    ]
    assert not judged.exists()
    assert not (tmp_path / "results/synthetic/partial").exists()
    assert read_run(folders[0]).rows == read_rows(small_run / "results.jsonl")
    swept = read_sweep(tmp_path / "outputs/synthetic/multirun/swept")
    again = read_run(folders[1])
    assert again.rows == swept.rows and again.options.grid.dim == [2]


@pytest.mark.parametrize("lacks", [lambda r: r["n"] > 5, lambda r: False])
def test_a_run_that_lacks_uniform_rows_is_drawn(lacks, small_run):
    rows = read_rows(small_run / "results.jsonl")
    assert draw([r for r in rows if r["selector"] != "uniform" or lacks(r)], "mean_logit")


def test_several_runs_are_plotted_together(small_run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(small_run, other)
    config = OmegaConf.load(other / "config.yaml")  # of another grid, in which uniform is missing
    config.grid = {"n_labels": [4, 5]}
    OmegaConf.save(config, other / "config.yaml")
    rows = [
        r | {"setting": {"n_labels": n}} for n in (4, 5) for r in read_rows(other / "results.jsonl")
    ]
    kept = [json.dumps(r) + "\n" for r in rows if r["selector"] != "uniform" or r["n"] > 5]
    (other / "results.jsonl").write_text("".join(kept))
    names = [path.name for path in compare([small_run, other], tmp_path / "figures")]
    metrics = ["max_logit", "mean_logit"]
    assert names == [f"{kind}{m}.png" for m in metrics for kind in ("", "forest_")]
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {*names}
    with pytest.raises(UserError, match=r"has no results.jsonl, no results.parquet and no jobs"):
        [*compare([tmp_path / "none"], tmp_path / "figures")]


def test_the_command_says_what_is_wrong_in_a_line(tmp_path):
    def command(*given):
        return subprocess.run(
            [sys.executable, "-m", "experiments.report", *map(str, given)],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip

    done = command(tmp_path, "-o", tmp_path / "figures")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "run it first" in done.stderr and not (tmp_path / "figures").exists()
    assert "go together" in command(tmp_path).stderr
