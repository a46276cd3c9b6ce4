"""Judging a language run's texts: comparisons, what is kept, people's answers."""

import csv
import json
import re
import shutil
from dataclasses import asdict, replace

import pytest
from omegaconf import OmegaConf

from experiments.judging import main as judging
from experiments.judging.judge import JudgeError
from experiments.judging.texts import Contest, Texts
from experiments.language.options import Options
from experiments.language.preparation import pool_of
from experiments.language.writing import prompts_of
from experiments.run.results import read_rows
from fisher_jax.util.errors import UserError
from fisher_jax.util.locks import only_writer
from tests.helpers.endpoint_server import completion, failure, shorter
from tests.helpers.experiment_options import language_options as options

SELECTORS = ["uniform", "fisher", "density"]


@pytest.fixture
def written(model_folder, tmp_path):
    """A run of two settings, with texts that tell who wrote them."""
    given = options(model_folder, selectors=SELECTORS, grid={"seed": [0, 1]}, replicates=1)
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(asdict(given))))
    rows = [
        {"setting": {"seed": seed}, "replicate": 0, "selector": name, "equal": "tokens", "n": 4}
        | {"texts": [f" {name} {seed}" * (1 + len(name) // 7), " the same"]}
        for seed in (0, 1)
        for name in SELECTORS
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path


def run(folder, *argv):
    judging.run(judging.parsed([str(folder), *map(str, argv)]))


def judged(folder):
    return json.loads((folder / "judged.json").read_text())


def test_comparisons_are_with_uniform_of_the_same_prompt(smoke, monkeypatch):
    folder, _ = smoke
    monkeypatch.setattr(judging, "REFERENCE_ROWS", 40)
    with pytest.raises(ValueError, match="of shakespeare 40 are left: take other --judges"):
        run(folder)
    monkeypatch.setattr(judging, "LEAST_ROWS", 40)
    run(folder)
    entries = judged(folder)
    texts = [r for r in read_rows(folder / "results.jsonl") if r["selector"] != "uniform"]
    assert len(entries) == len({(r["selector"], r["equal"], r["n"]) for r in texts})
    for entry in entries:
        assert entry["tally"]["n_pairs"] == len(entry["winners"]) == 4  # 2 prompts, 2 replicates
        assert entry["tally"]["unparsable"] == 0
    monkeypatch.setattr(judging, "make_judge", None)
    run(folder, "--equal", "tokens")  # nothing is judged twice
    assert judged(folder) == entries
    with pytest.raises(ValueError, match="no texts of these selectors"):
        run(folder, "--selectors", "nobody")


def test_every_setting_has_its_own_prompts_and_texts(written):
    texts = Texts(written)
    comparisons = texts.comparisons(["uniform", "density"])
    assert len(comparisons) == 2 * 3  # fisher and density with uniform, fisher with density
    prompts = []
    for c in comparisons:
        own = texts.options(c.setting)
        seed = json.loads(c.setting)["seed"]
        prompts.append(prompts_of(pool_of(own, 0).test, own))
        pairs = texts.pairs(c)
        assert [p.prompt for p in pairs] == prompts[-1]
        assert pairs[0].a.startswith(f" {c.selector} {seed}")
        assert pairs[0].b.startswith(f" {c.against} {seed}")
    assert prompts[0] != prompts[-1]


@pytest.mark.parametrize("texts", [["one"], ["one", 2]])
def test_rows_without_a_text_for_each_prompt_are_told(written, texts):
    rows = read_rows(written / "results.jsonl")
    rows[0]["texts"] = texts
    (written / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="row 1 with texts has not one for each of 2 prompts"):
        run(written)


@pytest.mark.parametrize("content", ["3", "[3]", '[{"judge": [], "naming": "neutral"}]'])
def test_damaged_verdicts_are_told(written, content):
    (written / "judged.json").write_text(content)
    with pytest.raises(UserError, match=r"judged\.json is damaged: remove it, and judge again"):
        run(written)


def test_one_run_judges_a_folder_at_a_time(written):
    with (
        only_writer(written / "judged.json"),
        pytest.raises(UserError, match=r"another run is writing .*judged\.json: wait"),
    ):
        run(written)


def test_a_local_judge_may_be_another_model(written, model_folder):
    config = OmegaConf.load(written / "config.yaml")
    config.model = "of the run, which nobody asks"
    OmegaConf.save(config, written / "config.yaml")
    with pytest.raises(JudgeError, match=f"the tokenizer of {model_folder} has no token for '1'"):
        run(written, "--judges", "local", "--local-model", model_folder)
    with pytest.raises(ValueError, match="no texts of these selectors and budgets"):
        run(written, "--n", 5)


def test_an_endpoint_is_estimated_asked_and_kept(written, serve, capsys):
    server = serve(lambda n, body: shorter(n, body) if n != 9 else failure(400, "no more"))
    asks = ["--base-url", server.url, "--judge-model", "m", "--ablation"]
    asks += ["--settings", '{"max_completion_tokens": 9}', "--selectors", "fisher"]
    run(written, *asks, "--dry-run", "--price-in", "1e6", "--price-out", "0")
    first, told = capsys.readouterr()
    assert first.startswith("the first question:\n\nYou are a judge of Shakespeare text.\n<tag1>")
    calls, known = map(int, re.search(r"(\d+) calls, (\d+) known", told).groups())
    assert calls + known == 2 * 4 * 2 * 2 and known > 0  # settings, namings, pairs, orders
    assert "cost" in told and "unknown" not in told and not server.calls
    asks += ["--judges", "endpoint"]
    with pytest.raises(ValueError, match="no more"):
        run(written, *asks)
    assert "cost unknown without --price-in and --price-out" in capsys.readouterr().err
    assert len(judged(written)) == 2  # finished before the call that failed
    run(written, *asks)
    entries = judged(written)
    assert {(e["setting"]["seed"], e["naming"]) for e in entries} == {
        (seed, naming) for seed in (0, 1) for naming in ("neutral", "letters", "names", "swapped")
    }
    assert all(e["winners"] == ["a", "tie"] for e in entries if e["naming"] == "neutral")
    assert server.calls[-1][1]["max_completion_tokens"] == 9
    calls = len(server.calls)
    run(written, *asks)
    assert len(server.calls) == calls
    other = serve(lambda n, body: (200, {}, completion("1")))  # a model of the same name
    run(written, *asks, "--base-url", other.url)
    assert other.calls and all(e["winners"] == ["tie", "tie"] for e in judged(written))


def test_verdicts_on_texts_that_changed_are_told_of(written, serve, capsys):
    asks = ["--judges", "endpoint", "--base-url", serve(shorter).url, "--judge-model", "m"]
    run(written, *asks, "--selectors", "fisher")
    path = written / "results.jsonl"
    path.write_text(path.read_text().replace(" fisher 1", " changed 1"))
    capsys.readouterr()
    run(written, *asks, "--selectors", "density")
    told = capsys.readouterr().err
    assert told.count("judged other texts of") == 1
    assert (
        """m (neutral) judged other texts of fisher against uniform, equal tokens, n = 4""" in told
    )
    assert len(judged(written)) == 3


def test_a_missing_key_is_told_before_another_judge_begins(written, monkeypatch):
    pytest.importorskip("openai", reason="needs openai: pip install 'fisher-jax[judge]'")
    monkeypatch.setattr(judging, "make_judge", None)
    with pytest.raises(ValueError, match="needs a key"):
        run(written, "--judges", "likelihood", "endpoint")


def test_peoples_answers_are_compared_with_every_judge(written, serve, capsys, monkeypatch):
    folder = written / "sheet"
    run(written, "--sheet", folder)
    sheet = folder / "sheet.csv"
    with pytest.raises(ValueError, match="no judge has seen these texts"):
        run(written, "--answers", sheet)
    url = serve(shorter).url
    run(written, "--judges", "endpoint", "--base-url", url, "--judge-model", "m")
    key = json.loads((written / "sheet.key.json").read_text())["pairs"]
    with sheet.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    for row in rows:  # as the judge: the method's text wins, equal texts tie
        fisher = 1 if key[row["id"]]["text1"] == "fisher" else 2
        row["answer"] = "tie" if row["text1"] == row["text2"] else fisher
    with sheet.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    capsys.readouterr()
    run(written, "--answers", sheet)
    told = capsys.readouterr().out.splitlines()
    key, elsewhere = written / "sheet.key.json", written / "answers.csv"
    shutil.copy(sheet, elsewhere)
    with pytest.raises(ValueError, match="key"):
        run(written, "--answers", elsewhere)
    run(written, "--answers", elsewhere, "--key", key)
    with pytest.raises(ValueError, match="--key goes with --answers"):
        run(written, "--key", key)
    monkeypatch.chdir(folder)
    run(written, "--answers", "sheet.csv")
    assert capsys.readouterr().out.splitlines() == told * 2
    assert len(told) == 1  # the other setting's texts are others
    assert told[0].startswith("m (neutral), fisher against uniform, equal tokens, n = 4")
    assert "kappa 1.00, the same winner in 100% of 2 pairs" in told[0]


def test_a_corpus_without_a_name_asks_for_one(written):
    config = OmegaConf.load(written / "config.yaml")
    config.corpus = "gsm8k"
    texts = Texts(written)
    texts._options = Options(**OmegaConf.to_object(config))
    comparison = Contest("{}", "fisher", "uniform", "tokens", 4)
    with pytest.raises(ValueError, match=r"judge of gsm8k .* pass --corpus-name"):
        texts.corpus(comparison, None)
    assert texts.corpus(comparison, "maths") == "maths"


@pytest.mark.parametrize("corpus", ["sherlock", "sherlock_whole"])
def test_sherlock_is_named_as_in_the_paper(written, corpus):
    texts = Texts(written)
    texts._options = replace(texts._options, corpus=corpus)
    assert texts.corpus(Contest("{}", "fisher", "uniform", "tokens", 4), None) == "Sherlock"


def test_a_run_without_texts_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no texts: run an experiment with n_prompts"):
        run(tmp_path)
