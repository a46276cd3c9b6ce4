"""The language experiment with a tiny model of random weights: cells, picks, proxies."""

import json
import os
import shutil
import sys
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import wandb

from experiments.corpora import corpora
from experiments.language import main as language
from experiments.language import picks, proxy, writing
from experiments.language import training as language_training
from experiments.language.cells import work
from experiments.language.options import LATER
from experiments.language.preparation import pool_of
from experiments.language.variants import VARIANTS
from experiments.report.language_texts import length_bias, picked
from experiments.run.packed import PACKED, pack
from experiments.run.results import read_rows, settings
from fisher_jax.design.selection import select
from fisher_jax.models.files.export import save_folder
from fisher_jax.models.load import load_model
from fisher_jax.training.finetune import DivergedError
from tests.helpers.endpoint_server import likely
from tests.helpers.experiment_options import ROOT, committed
from tests.helpers.experiment_options import language_options as options


def test_every_cell_has_a_row_with_losses_and_texts(smoke):
    _, rows = smoke
    assert len(rows) == 2 * 2 * 2  # replicates, selectors, kinds of budget
    for row in rows:
        assert 0 < row["held_out_nll"] < 10
        assert len(row["test_nll"]) == 20
        assert len(row["texts"]) == 2
        assert row["shares"] == {"own": 1.0}
    by_tokens = [r for r in rows if r["equal"] == "tokens"]
    assert all(r["rows"] == 4 for r in rows if r["equal"] == "examples")
    assert len({r["tokens"] for r in by_tokens}) > 1
    uniform = {r["replicate"]: r["tokens"] for r in by_tokens if r["selector"] == "uniform"}
    assert uniform[0] != uniform[1]


def test_bits_per_byte_are_of_the_predicted_text(model_folder, smoke):
    _, rows = smoke
    own = options(model_folder)
    model, pool = load_model(str(model_folder)), pool_of(own, 0)
    tokens = [model.tokenizer(row.text())["input_ids"][: own.max_length] for row in pool.test]
    n_bytes = sum(len(model.tokenizer.decode(ids[1:]).encode()) for ids in tokens)
    n_predicted = sum(len(ids) - 1 for ids in tokens)
    for row in rows:
        if row["replicate"] == 0:
            bits = row["held_out_nll"] * n_predicted / np.log(2)
            assert row["bits_per_byte"] == pytest.approx(bits / n_bytes, rel=1e-4)


def test_losses_are_those_of_the_rows(smoke):
    folder, _ = smoke
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {"clean/0", "clean/1"} == set(manifest)
    assert manifest["clean/0"]["sha256"]["test"] != manifest["clean/1"]["sha256"]["test"]
    pools = manifest["clean/0"]["groups"]
    assert not set(pools["pool"]) & set(pools["test"])


def test_a_second_run_redoes_nothing_and_a_larger_one_adds_cells(model_folder, smoke):
    folder, _ = smoke
    before = read_rows(folder / "results.jsonl")
    assert language.run(options(model_folder), folder) == before
    grown = language.run(options(model_folder, selectors=["uniform", "longest"]), folder)
    assert grown[: len(before)] == before
    assert {r["selector"] for r in grown[len(before) :]} == {"longest"}
    assert len(grown) == len(before) + 4
    with pytest.raises(ValueError, match="holds results of other options"):
        language.run(options(model_folder, epochs=3), folder)


def test_losses_are_logged_while_training(model_folder, tmp_path, monkeypatch):
    told = []

    class Log:
        def log(self, values):
            told.append((values, (tmp_path / "results.jsonl").exists()))

    monkeypatch.setattr(wandb, "run", Log())
    own = options(model_folder, selectors=["uniform"], equal=["tokens"], replicates=1, n_prompts=0)
    (row,) = language.run(replace(own, generate_budgets=[]), tmp_path)
    *steps, (last, _) = told
    assert [values["training_step"] for values, _ in steps] == [*range(1, row["steps"] + 1)]
    assert all(0 < v["training_loss"] < 10 and not finished for v, finished in steps)
    assert last["finished"] == "clean/0/uniform/tokens/4"
    assert last["held_out_nll"] == pytest.approx(row["held_out_nll"], rel=1e-5)


def test_texts_fill_the_context_and_no_more(model_folder, tmp_path, monkeypatch):
    asked = {}

    def generate(model, prompts, *, max_new_tokens, **others):
        asked[max_new_tokens] = [len(ids) for ids in model.tokenizer(prompts)["input_ids"]]
        return ["" for _ in prompts]

    monkeypatch.setattr(writing, "generate", generate)
    own = options(model_folder, selectors=["uniform"], equal=["tokens"], replicates=1)
    for k, new_tokens in enumerate((3, 100_000)):
        language.run(replace(own, new_tokens=new_tokens), tmp_path / str(k))
    assert asked.pop(3)
    ((most, lengths),) = asked.items()
    assert most + max(lengths) == load_model(str(model_folder)).context


def test_a_corpus_that_has_changed_is_refused(model_folder, smoke, tmp_path):
    folder, rows = smoke
    shutil.copytree(folder, tmp_path / "run")
    lines = [json.dumps(row) + "\n" for row in rows if row["replicate"] == 0]
    (tmp_path / "run/results.jsonl").write_text("".join(lines))
    known = json.loads((folder / "manifest.json").read_text())
    known["clean/1"]["sha256"]["pool"] = "0" * 64
    (tmp_path / "run/manifest.json").write_text(json.dumps(known))
    with pytest.raises(ValueError, match=r"manifest.json: clean/1 was made of other rows than its"):
        language.run(options(model_folder), tmp_path / "run")


def test_the_same_options_give_the_same_rows(model_folder, smoke, tmp_path):
    _, rows = smoke
    again = language.run(options(model_folder, replicates=1), tmp_path)
    assert again == [r for r in rows if r["replicate"] == 0 and r["selector"] != "longest"]


def watched(monkeypatch):
    """(rows chosen, rates) of every choice that is trained."""
    seen, train = [], language_training.train_and_test

    def noting(options, model, prepared, choices, replicate, rates, writes):
        seen.extend((chosen.rows.tolist(), list(rates)) for chosen in choices)
        return train(options, model, prepared, choices, replicate, rates, writes)

    monkeypatch.setattr(language_training, "train_and_test", noting)
    return seen


@pytest.mark.parametrize("together", [1, 8])
def test_the_same_choice_is_trained_once(model_folder, tmp_path, monkeypatch, device, together):
    device(trained_together=together)
    seen = watched(monkeypatch)
    names = ["uniform", "uniform_exact", "longest"]  # without copies the first two are one
    changes = {"selectors": names, "replicates": 1, "n_prompts": 0, "equal": ["examples"]}
    rows = language.run(options(model_folder, **changes), tmp_path)
    (first, _), (second, _) = seen
    assert first != second
    assert [r["chosen"] for r in rows] == [first, first, second]
    assert rows[0]["test_nll"] == rows[1]["test_nll"] != rows[2]["test_nll"]


def test_uniform_tunes_the_rate_for_all(model_folder, tmp_path, monkeypatch, device):
    device(trained_together=8)
    changes = {"tune": "uniform", "learning_rates": [1e-5, 1 / 30], "n_prompts": 0, "replicates": 1}
    changes |= {"equal": ["tokens"], "uniform_budgets": [2, 6]}
    seen = watched(monkeypatch)
    rows = language.run(options(model_folder, **changes), tmp_path)
    assert [r["n"] for r in rows] == [4, 2, 6, 4]  # tuned at the budget, not at a further one
    assert [len(rates) for _, rates in seen] == [2, 1, 1, 1]
    assert len({r["learning_rate"] for r in rows}) == 1
    kept = (tmp_path / "results.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "results.jsonl").write_text("".join(kept[:2]))
    again = language.run(options(model_folder, **changes), tmp_path)
    assert again[:2] == rows[:2] and seen[4] == seen[2]  # the rate itself, not its six digits
    assert [r["held_out_nll"] for r in again] == pytest.approx([r["held_out_nll"] for r in rows])


def test_a_cell_is_the_mean_of_its_trainings_at_the_best_rate(model_folder, tmp_path):
    changes = {"selectors": ["uniform"], "equal": ["tokens"], "replicates": 1, "n_prompts": 0}
    changes |= {"n_pool": 120, "budgets": [40], "generate_budgets": [], "epochs": 2}
    rates = [1e-4, 0.03]
    (mean,) = language.run(
        options(model_folder, **changes, trainings=3, learning_rates=rates), tmp_path / "3"
    )
    (tuned,) = language.run(options(model_folder, **changes, learning_rates=rates), tmp_path / "1")
    own = [of["held_out_nll"] for of in mean["of_training"]]
    assert len(own) == len(mean["losses"]) == 3 and len({*own}) == 3
    assert mean["held_out_nll"] == pytest.approx(np.mean(own), rel=1e-5)
    assert mean["tried"] == tuned["tried"] and {*mean["tried"]} == {"0.0001", "0.03"}
    assert own[0] == tuned["held_out_nll"]
    assert mean["tried"][f"{mean['learning_rate']:g}"] == min(mean["tried"].values())
    assert len(mean["losses"][0]) == mean["steps"] > 1
    assert (mean["diverged"], mean["unsteady"]) == (0, 0)


def test_what_diverges_is_counted_and_never_the_best(monkeypatch):
    """At rate 3 and in the third training; the fourth is unsteady."""

    def fits(options, model, prepared, choices, jobs, seed):
        for k, rate in jobs:
            training = seed // language_training.SEEDS_APART
            if rate == 3 or training == 2:
                yield language_training.CellFit(k, rate, [2.0])
                continue
            loss = {1: np.nan, 2: 0.5, 4: 0.7}[rate] + {0: 0.0, 1: 0.09, 3: 0.11}[training]
            losses = [2.0, 1.0]
            yield language_training.CellFit(
                k, rate, losses, np.array([loss]), lambda x=loss: np.array([x])
            )

    part = SimpleNamespace(offsets=np.array([0, 1]), counted=np.array([1]))
    pool = SimpleNamespace(test_domain=np.array([0]))
    prepared = SimpleNamespace(validation=part, test=part, pool=pool, test_bytes=1)
    given = SimpleNamespace(trainings=4, seed=0)
    monkeypatch.setattr(language_training, "_fits", fits)

    def trained(rates):
        args: Any = given, None, prepared, [None], 0, rates, [False]
        (row,) = language_training.train_and_test(*args)
        return row

    row = trained([1, 3, 2, 4])
    assert isinstance(row, dict)
    assert row["learning_rate"] == 2 and row["tried"] == {"2": 0.5, "4": 0.7}
    assert row["held_out_nll"] == pytest.approx(np.mean([0.5, 0.59, 0.61]))
    assert (row["diverged"], row["unsteady"]) == (3, 1)  # two rates (no number is none) and one
    assert row["losses"] == [[2.0, 1.0], [2.0, 1.0], [2.0], [2.0, 1.0]]
    error = trained([1, 3])
    assert isinstance(error, DivergedError)
    assert "diverged at every learning rate of [1, 3]" in str(error)


def test_a_cell_that_diverges_is_named(model_folder, tmp_path, monkeypatch):
    def diverge(*args):
        return [DivergedError("at every rate")]

    monkeypatch.setattr(language_training, "train_and_test", diverge)
    said = r"replicate 0, uniform tokens 4: at every rate: leave uniform out of selectors"
    with pytest.raises(ValueError, match=said):
        language.run(options(model_folder), tmp_path)


def test_a_prompt_and_its_text_have_so_many_tokens(model_folder, monkeypatch):
    model, asked = load_model(str(model_folder)), []

    def generate(model, prompts, *, max_new_tokens, **others):
        asked.append((max_new_tokens, others["batch_size"]))
        return [f"of {prompt}" for prompt in prompts]

    monkeypatch.setattr(writing, "generate", generate)
    prompts = ["the king", "my lord of", "the queen"]
    given = options(model_folder, total_tokens=12, decoded_rows=2)
    assert writing.continued(model, prompts, given, 0) == [f"of {prompt}" for prompt in prompts]
    assert asked == [(10, 2), (9, 2)]
    given = options(model_folder, total_tokens=100_000)
    writing.continued(model, prompts, given, 0)
    assert asked[2:] == [(model.context - 2, None), (model.context - 3, None)]


def test_a_model_that_was_not_taught_to_answer_is_not_asked(model_folder, tmp_path):
    given = options(model_folder, selectors=["uniform", "ask_llm"], replicates=1)
    with pytest.raises(ValueError, match=r"ask_llm asks .* no chat template .* ask_model=smollm2"):
        language.run(given, tmp_path)
    assert read_rows(tmp_path / "results.jsonl") == []


def test_an_endpoint_is_asked_once_about_each_row(model_folder, tmp_path, serve):
    def short_ones(n, body):
        return 200, {}, likely({"yes": 1 / len(body["messages"][0]["content"]), "no": 0.5})

    server = serve(short_ones)
    given = options(
        model_folder,
        selectors=["uniform", "ask_llm"],
        replicates=1,
        budgets=[4],
        ask_model="m",
        ask_endpoint=server.url,
    )
    rows = language.run(given, tmp_path)
    pool = [row.text() for row in pool_of(given, 0).rows]
    shortest = sorted(range(len(pool)), key=lambda i: len(pool[i]))[:4]
    (chosen,) = (r for r in rows if r["selector"] == "ask_llm" and r["equal"] == "examples")
    assert len(server.calls) == len({*pool}) and server.calls[0][1]["model"] == "m"
    lengths = sorted(len(pool[i]) for i in chosen["chosen"])
    assert lengths == sorted(len(pool[i]) for i in shortest)
    (tmp_path / "results.jsonl").unlink()
    language.run(given, tmp_path)
    assert len(server.calls) == len({*pool})  # from ask_llm.jsonl
    with pytest.raises(ValueError, match=r"ask_endpoint=http.* needs ask_model"):
        replace(given, ask_model=None)


def test_stages_are_parts_of_the_whole_in_order(model_folder):
    stages = [
        {"selectors": ["uniform"], "grid": {"corpus": ["b"]}},
        {"budgets": [8, 99], "replicates": 1},
        {"selectors": ["nobody"]},
        {},
    ]
    whole = {"budgets": [4, 8], "grid": {"corpus": ["a", "b"]}, "stages": stages}
    given = options(model_folder, **whole)
    found = [
        (of.setting["corpus"], of.replicate, [(cell.selector, cell.n) for cell in of.cells])
        for of in work(given)
    ]
    both = [(name, n) for name in given.selectors for _ in given.equal for n in (4, 8)]
    alone = [(name, 8) for name in given.selectors for _ in given.equal]
    first = [("uniform", n) for _ in given.equal for n in (4, 8)]
    assert found[:2] == [("b", 0, first), ("b", 1, first)]
    assert found[2:4] == [("a", 0, alone), ("b", 0, alone)]
    assert found[4:] == [(corpus, k, both) for corpus in "ab" for k in (0, 1)]
    assert [*work(replace(given, stages=[]))] == [*work(replace(given, stages=[{}]))]
    for wrong, said in (({"seed": [1]}, "got 'seed'"), ({"grid": {"pool": []}}, "has 'pool'")):
        with pytest.raises(ValueError, match=said):
            options(model_folder, stages=[wrong], grid={"corpus": ["a"]})
    replace(given, grid={}, corpus="a")  # one setting of it


def test_a_run_ends_after_its_hours_and_goes_on_from_what_is_committed(
    model_folder, smoke, tmp_path, capsys, monkeypatch
):
    folder, rows = smoke
    given = options(model_folder)
    start = tmp_path / "kept"
    start.mkdir()
    for name in ("config.yaml", "provenance.json", "manifest.json"):
        shutil.copy(folder / name, start / name)
    kept = [row for row in rows if row["selector"] in given.selectors][:-1]
    pack(kept, start / PACKED, study="language")
    later = replace(given, start=str(start), hours=1e-9)
    assert language.run(later, tmp_path / "run") == kept
    assert "1 of 8 cells are missing: the same command goes on" in capsys.readouterr().err
    whole = language.run(replace(later, hours=None), tmp_path / "run")
    assert len(whole) == 8 and "missing" not in capsys.readouterr().err
    none = replace(given, start=str(tmp_path / "nowhere"), hours=1e-9)
    assert language.run(none, tmp_path / "empty") == []


def test_an_option_that_came_later_is_what_earlier_runs_did(model_folder, smoke, tmp_path):
    folder, _ = smoke
    shutil.copytree(folder, tmp_path / "run")
    rows = read_rows(folder / "results.jsonl")
    before = (tmp_path / "run/config.yaml").read_text()
    kept = [line for line in before.splitlines() if line.split(":")[0] not in LATER]
    assert len(kept) < len(before.splitlines())
    (tmp_path / "run/config.yaml").write_text("\n".join(kept) + "\n")
    assert language.run(options(model_folder), tmp_path / "run") == rows
    (tmp_path / "run/config.yaml").write_text("\n".join(kept) + "\n")
    with pytest.raises(ValueError, match="holds results of other options"):
        language.run(options(model_folder, trainings=2), tmp_path / "run")


def test_near_copies_need_their_package_before_any_work(model_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(ValueError, match="near duplicates need the package datasketch"):
        language.run(options(model_folder, selectors=["uniform", "near_unit"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_last_layer_is_trained_on_imbalanced_pools_too(model_folder, tmp_path):
    own = tmp_path / "second.txt"
    own.write_text(
        "\n".join(f"the {a} of {b} and my {c}" for a in "abcd" for b in "abcdefgh" for c in "xyz")
    )
    changes = {
        "method": "last_layer", "pool": "imbalance", "second": str(own), "n_prompts": 0,
        "n_pool": 60, "selectors": ["uniform", "near_unit", "rds", "task_rows"], "replicates": 1,
        "tune": "uniform",
    }  # fmt: skip
    rows = language.run(options(model_folder, **changes), tmp_path / "run")
    for row in rows:
        halves = row["held_out_nll_0"], row["held_out_nll_1"]
        assert row["held_out_nll"] == pytest.approx(np.mean(halves), rel=1e-5)
        of_pool = row["selector"] != "task_rows"
        assert sum(row["shares"].values()) == pytest.approx(float(of_pool), abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"selectors": ["fisher"]}, "selectors must begin with uniform"),
        ({"selectors": ["uniform", "best"]}, "unknown name 'best'"),
        ({"method": "all"}, "method must be one of"),
        ({"equal": ["bytes"]}, "equal must be of examples and tokens"),
        ({"budgets": [0]}, "budgets must be from 1"),
        ({"learning_rates": []}, "learning_rates must be above 0"),
        ({"method": "last_layer"}, "n_prompts must be 0"),
        (
            {"selectors": ["uniform", "task_rows"], "learning_rates": [0.1, 0.2]},
            "task_rows trains on the validation rows: it needs tune=uniform and no proxy",
        ),
        ({"grid": {"nothing": [1]}}, "grid has an unknown option 'nothing'"),
        ({"generate_budgets": []}, "generate_budgets must be some of the budgets"),
        ({"held_out": 1.0}, "held_out must be above 0 and below 1"),
        ({"generate_budgets": [5]}, "generate_budgets must be some of the budgets"),
        ({"prompt_words": 0}, "prompt_words must be above 0"),
        ({"temperature": -1.0}, "n_prompts and temperature must be at least 0"),
        ({"trainings": 0}, "trainings must be above 0"),
        ({"dtype": "float16"}, "dtype must be one of"),
        ({"hours": 0.0}, "hours must be above 0, or null"),
        ({"seed": 5_000_000}, "seed must be a whole number from 0 to 4,000,000"),
    ],
)
def test_wrong_options_are_named(model_folder, changes, message):
    with pytest.raises(ValueError, match=message):
        options(model_folder, **changes)


def test_picks_say_what_the_selectors_take(model_folder):
    names = ["uniform", "longest", "fisher", "task_rows"]  # the last chooses no rows of the pool
    given = options(model_folder, budgets=[8], n_prompts=0, selectors=names)
    found = picks.picks(given)
    prepared = language.prepare(given, load_model(given.model), pool_of(given, 0), "again")
    facts = picks.facts_of(prepared)
    tokens = [row.text().split() for row in prepared.pool.rows]
    unk = prepared.rows.ids[0].dtype.type(0)
    assert facts.tokens.tolist() == [min(len(t), given.max_length) - 1 for t in tokens]
    ids = [row[1:].tolist() for row in prepared.rows.ids]
    rows_with = Counter(i for row in ids for i in set(row))
    assert unk in rows_with
    rare = [np.mean([rows_with[i] == 1 for i in row]) for row in ids]
    np.testing.assert_allclose(facts.rare, rare)
    np.testing.assert_allclose(facts.repeats, [1 - len(set(row)) / len(row) for row in ids])
    emb, _ = prepared.candidates.features_of("tokens")
    np.testing.assert_allclose(facts.alone.max(), select(emb, n_samples=1).gains[0], rtol=1e-4)
    longest = sorted(facts.tokens)[-8:]
    of_longest = found["selectors"]["longest"]
    assert of_longest["all"]["tokens"] == np.mean(longest)
    assert of_longest["length_quantiles"][2] <= max(longest)
    assert found["pool"]["tokens"] == facts.tokens.mean()
    assert 0.5 < found["gain_and_length"] <= 1
    assert 0.5 < of_longest["order_and_length"] <= 1  # many lengths are equal
    assert picks.rank_correlation(np.arange(4), np.arange(4) ** 2) == pytest.approx(1)
    assert picks.rank_correlation(np.arange(4), np.ones(4)) is None
    information = select(emb, n_samples=8).log_det
    assert found["selectors"]["fisher"]["log_det"] == pytest.approx(information, rel=1e-4)
    lines = picked(found, ["fisher", "uniform", "none"]).splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == ["| the pool", "| fisher", "| uniform"]
    lines = length_bias(found).splitlines()[2:]
    assert lines[0].startswith("| longest |") and len(lines) == 3
    tokens = sum(facts.tokens[i] for i in select(emb, n_samples=8).ranking)
    of_fisher = next(line for line in lines if line.startswith("| fisher |"))
    assert of_fisher.endswith(f"| {information / tokens:.3f} |")


def test_the_rows_of_earlier_states_are_the_pools_and_the_validations(model_folder):
    given = options(model_folder, budgets=[8], n_prompts=0)
    model = load_model(given.model)
    candidates = language.prepare(given, model, pool_of(given, 0), "again").candidates
    assert candidates.earlier is not None
    for got, whole in zip(
        candidates.earlier(1.0), (candidates.hidden, candidates.targets), strict=True
    ):
        np.testing.assert_array_equal(got.offsets, whole.offsets)
        np.testing.assert_allclose(got.tokens, whole.tokens, rtol=1e-5, atol=1e-6)


def test_every_rule_without_prompts_is_described(model_folder):
    assert {"ask_llm", "rds", "i_optimal", "badge"} <= set(picks.EVERY) <= set(VARIANTS)
    given = options(model_folder, budgets=[4], n_prompts=0, selectors=[*picks.EVERY])
    found = picks.picks(given)["selectors"]
    assert set(found) == set(picks.EVERY)
    assert all(of["log_det"] > 0 and of["all"]["tokens"] > 1 for of in found.values())


LANGUAGE = sorted(p.stem for p in (ROOT / "conf/language/experiment").glob("*.yaml"))


@pytest.mark.parametrize("experiment", LANGUAGE)
def test_corpora_have_the_rows_that_an_experiment_asks_for(experiment):
    whole = committed("language", experiment)
    for setting in settings(whole.grid):
        own = replace(whole, **setting, grid={})
        needed = {own.corpus} | ({own.second} if own.pool == "imbalance" else set())
        if needed == {"shakespeare"} or os.environ.get(corpora.DATA_FOLDER):
            assert len(pool_of(own, 0).rows) == own.n_pool


def test_a_missing_proxy_is_refused_before_any_work(model_folder, tmp_path):
    given = options(model_folder, grid={"proxy": [None, str(tmp_path / "none")]})
    with pytest.raises(ValueError, match="none does not exist: python -m"):
        language.run(given, tmp_path / "run")
    assert read_rows(tmp_path / "run/results.jsonl") == []


def test_a_proxy_selects_for_the_model(model_folder, tmp_path, sentences):
    """A GPT-2 of a few steps: its rows are cheaper for it, and the budget is in the model's."""
    config = proxy.CONFIG._replace(vocab=300, dim=8, n_layers=1, n_heads=2, mlp_dim=16)
    few = proxy.OPTIONS._replace(epochs=1, sequences=2)
    save_folder(proxy.trained("plays", sentences[:200], config, few), tmp_path / "gpt2")
    given = options(
        model_folder, method="last_layer", n_prompts=0, selectors=["uniform", "fisher"],
        equal=["tokens"], replicates=1, grid={"proxy": [None, str(tmp_path / "gpt2")]},
    )  # fmt: skip
    rows = language.run(given, tmp_path / "run")
    (n,) = given.budgets
    own, by_proxy = ([r for r in rows if r["setting"]["proxy"] == p] for p in given.grid["proxy"])
    assert own[0]["chosen"] == by_proxy[0]["chosen"]  # uniform
    assert own[1]["chosen"] != by_proxy[1]["chosen"]
    models = load_model(given.model), load_model(str(tmp_path / "gpt2"))
    prepared = language.prepare(given, models[0], pool_of(given, 0), "", models[1])
    lengths = prepared.rows.counted
    assert prepared.candidates.hidden.tokens.shape[1] == 8
    assert prepared.candidates.hidden.lengths.sum() > lengths.sum()  # more, shorter tokens
    for row in by_proxy:
        assert row["tokens"] == lengths[row["chosen"]].sum() <= n * lengths.mean()
    expected = prepared.candidates.choose("fisher", n=n, equal="tokens", seed=0)
    assert by_proxy[1]["chosen"] == expected.rows.tolist()
