"""The language experiment with a tiny model of random weights: cells, variants, tables."""

import json
import os
from collections import Counter
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from omegaconf import OmegaConf
from safetensors.numpy import save_file
from test_experiments import ROOT, base_config, committed
from test_models import VOCAB, random_model

from experiments import figures, language, picks, proxy
from experiments.harness import checked
from experiments.language_preparation import pool_of
from experiments.results import read_rows, settings
from experiments.statistics import Estimate
from experiments.variants import VARIANTS, Candidates
from fisher_jax import corpora, quality
from fisher_jax.corpora import shakespeare
from fisher_jax.data import PromptCompletion
from fisher_jax.design import TokenEmbeddings
from fisher_jax.last_layer import HeadOptions, nll, positions_of, train, trained_rows
from fisher_jax.models.export import save_folder
from fisher_jax.models.load import load_model
from fisher_jax.selection import select
from scripts.language_tables import (
    LanguageTables,
    Match,
    difference,
    length_and_content,
    picked,
    to_match,
    two_level,
)

DIM, LAYERS, WORDS = 16, 1, 300


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A Llama whose tokens are frequent words of Shakespeare."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    counts = Counter(word for row in shakespeare() for word in row["text"].split())
    words = ["<unk>", "yes", *(word for word, _ in counts.most_common(WORDS - 2))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    config = {
        "model_type": "llama", "vocab_size": WORDS, "hidden_size": DIM, "num_hidden_layers": LAYERS,
        "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 2 * DIM,
        "max_position_embeddings": 200, "tie_word_embeddings": True, "hidden_act": "silu",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens.weight": (WORDS, DIM), "model.norm.weight": (DIM,)}
    layer = "model.layers.0"
    for name, shape in {
        "self_attn.q_proj": (DIM, DIM), "self_attn.k_proj": (DIM // 2, DIM),
        "self_attn.v_proj": (DIM // 2, DIM), "self_attn.o_proj": (DIM, DIM),
        "mlp.gate_proj": (2 * DIM, DIM), "mlp.up_proj": (2 * DIM, DIM),
        "mlp.down_proj": (DIM, 2 * DIM), "input_layernorm": (DIM,),
        "post_attention_layernorm": (DIM,),
    }.items():  # fmt: skip
        shapes[f"{layer}.{name}.weight"] = shape
    rng = np.random.default_rng(0)
    weights = {k: rng.normal(0, 0.3, s).astype(np.float32) for k, s in shapes.items()}
    save_file(weights, folder / "model.safetensors")
    return folder


def options(model_folder, **changes):
    delta = OmegaConf.load(ROOT / "conf/language/experiment/smoke.yaml")
    given = base_config("language") | dict(delta) | {"model": str(model_folder)} | changes
    return checked(OmegaConf.create(given), language.Options)


@pytest.fixture(scope="module")
def smoke(model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke")
    return folder, language.run(options(model_folder), folder)


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
    tokens = [model.tokenizer(text)["input_ids"][: own.max_length] for text in pool.test]
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


def test_the_same_options_give_the_same_rows(model_folder, smoke, tmp_path):
    _, rows = smoke
    again = language.run(options(model_folder, replicates=1), tmp_path)
    assert again == [r for r in rows if r["replicate"] == 0 and r["selector"] != "longest"]


def test_the_same_choice_is_trained_once(model_folder, tmp_path, monkeypatch):
    count, train = [], language.train_and_test

    def counting(*args):
        count.append(args[3].rows.tolist())
        return train(*args)

    monkeypatch.setattr(language, "train_and_test", counting)
    names = ["uniform", "uniform_exact", "longest"]  # without copies the first two are one
    changes = {"selectors": names, "replicates": 1, "n_prompts": 0, "equal": ["examples"]}
    rows = language.run(options(model_folder, **changes), tmp_path)
    assert len(count) == 2 and count[0] != count[1]
    assert [r["chosen"] for r in rows] == [count[0], count[0], count[1]]
    assert rows[0]["test_nll"] == rows[1]["test_nll"] != rows[2]["test_nll"]


def test_uniform_tunes_the_rate_for_all(model_folder, tmp_path, monkeypatch):
    changes = {"tune": "uniform", "learning_rates": [1e-5, 1 / 30], "n_prompts": 0, "replicates": 1}
    changes |= {"equal": ["tokens"], "uniform_budgets": [2, 6]}
    tried, train = [], language.train_and_test

    def noting(*args):
        tried.append((len(args[3].rows), args[5]))
        return train(*args)

    monkeypatch.setattr(language, "train_and_test", noting)
    rows = language.run(options(model_folder, **changes), tmp_path)
    assert [r["n"] for r in rows] == [4, 2, 6, 4]  # tuned at the budget, not at a further one
    assert [len(rates) for _, rates in tried] == [2, 1, 1, 1]
    assert len({r["learning_rate"] for r in rows}) == 1
    kept = (tmp_path / "results.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "results.jsonl").write_text("".join(kept[:2]))
    again = language.run(options(model_folder, **changes), tmp_path)
    assert again == rows and tried[4] == tried[2]  # the rate itself, not the six digits on disk


def test_the_last_layer_is_trained_on_imbalanced_pools_too(model_folder, tmp_path):
    own = tmp_path / "second.txt"
    own.write_text(
        "\n".join(f"the {a} of {b} and my {c}" for a in "abcd" for b in "abcdefgh" for c in "xyz")
    )
    changes = {
        "method": "last_layer", "pool": "imbalance", "second": str(own), "n_prompts": 0,
        "n_pool": 60, "selectors": ["uniform", "near_unit", "rds"], "replicates": 1,
    }  # fmt: skip
    rows = language.run(options(model_folder, **changes), tmp_path / "run")
    for row in rows:
        halves = row["held_out_nll_0"], row["held_out_nll_1"]
        assert row["held_out_nll"] == pytest.approx(np.mean(halves), rel=1e-5)
        assert sum(row["shares"].values()) == pytest.approx(1, abs=1e-3)


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
        ({"grid": {"nothing": [1]}}, "grid has an unknown option 'nothing'"),
        ({"generate_budgets": []}, "generate_budgets must be some of the budgets"),
        ({"generate_budgets": [5]}, "generate_budgets must be some of the budgets"),
        ({"prompt_words": 0}, "prompt_words must be above 0"),
        ({"temperature": -1.0}, "n_prompts and temperature must be at least 0"),
        ({"seed": 5_000_000}, "seed must be from 0 to 4,000,000"),
    ],
)
def test_wrong_options_are_named(model_folder, changes, message):
    with pytest.raises(ValueError, match=message):
        options(model_folder, **changes)


@pytest.fixture(scope="module")
def candidates():
    rng = np.random.default_rng(0)
    rows = [" ".join(rng.choice(list("abcdefghijk"), 9)) for _ in range(30)]
    rows[7] = rows[3]
    lengths = rng.integers(1, 9, 30)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    hidden = TokenEmbeddings(rng.normal(size=(offsets[-1], 8)).astype(np.float32), offsets)
    targets = TokenEmbeddings(rng.normal(size=(12, 8)).astype(np.float32), np.arange(0, 13, 4))
    head = rng.normal(size=(50, 8)).astype(np.float32)
    return Candidates(rows, hidden, head, rng.integers(50, size=offsets[-1]), targets)


LEFT_OUT = {"ask_llm", "ifd"}  # need a model, see the next test


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - LEFT_OUT))
def test_every_variant_keeps_to_its_budget(candidates, name):
    lengths = candidates.hidden.lengths
    by_tokens = candidates.choose(name, n=8, equal="tokens", seed=0)
    assert 0 < lengths[by_tokens.rows].sum() <= 8 * lengths.mean()
    by_examples = candidates.choose(name, n=8, equal="examples", seed=0)
    assert len(by_examples.rows) == len(set(by_examples.rows)) == 8


@pytest.mark.parametrize("name", sorted(LEFT_OUT))
def test_variants_that_read_the_rows_again_rank_by_the_models_word(candidates, model_folder, name):
    model = load_model(str(model_folder))
    rng = np.random.default_rng(1)
    words = [w for w in model.tokenizer.get_vocab() if w != "<unk>"]
    rows = [PromptCompletion(*(" ".join(rng.choice(words, 5)) for _ in "pc")) for _ in range(30)]
    labels = np.zeros(len(candidates.hidden.tokens), int)
    reading = Candidates(
        rows, candidates.hidden, np.zeros((1, 8)), labels, candidates.targets, model
    )
    chosen = reading.choose(name, n=6, equal="examples", seed=0).rows
    values = getattr(quality, name)(model, rows)
    if name == "ifd":
        assert np.sum(values < 1) >= 6
        values[values > 1] = -np.inf
    assert chosen.tolist() == np.argsort(-values, kind="stable")[:6].tolist()


def test_filters_leave_one_of_two_equal_rows(candidates):
    assert 7 not in candidates.kept("exact") and 3 in candidates.kept("exact")
    assert set(candidates.kept("plain")) < set(candidates.kept("near")) <= set(range(30)) - {7}
    losses = candidates.inputs["losses"]
    assert losses[candidates.kept("plain")].max() <= np.quantile(losses, 0.75)


@pytest.fixture(scope="module")
def head_problem():
    rng = np.random.default_rng(0)
    head = np.asarray(random_model("llama").head)
    x = rng.normal(size=(40, head.shape[1])).astype(np.float32)
    labels = rng.integers(0, 20, 40)
    return head, x, labels


def reference_nll(head, x, labels):
    logits = x.astype(np.float64) @ head.astype(np.float64).T
    total = np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1))
    return total + logits.max(axis=1) - logits[np.arange(len(x)), labels]


@pytest.mark.parametrize("trained", [np.arange(20), np.arange(5, 60), np.arange(VOCAB)])
def test_frozen_and_trained_rows_add_up_to_the_softmax(head_problem, trained):
    head, x, labels = head_problem
    data = positions_of(head, trained, x, labels)
    actual = nll(jnp.asarray(head[trained]), data)
    np.testing.assert_allclose(actual, reference_nll(head, x, labels), rtol=1e-5, atol=1e-5)


def test_trained_rows_hold_all_labels_in_a_few_sizes():
    labels = np.array([5, 2000, 5, 7])
    rows = trained_rows(labels, 5000)
    assert len(rows) == 1024 and {5, 7, 2000} <= set(rows) and (np.diff(rows) > 0).all()
    assert len(trained_rows(labels, 3000 - 2500 + 1501)) == 1024
    assert len(trained_rows(np.arange(1025), 5000)) == 2048


def test_training_a_head_follows_the_gradient_of_its_rows(head_problem):
    head, x, labels = head_problem
    trained = np.arange(30)
    data = positions_of(head, trained, x, labels)
    rows = [np.arange(k, k + 4) for k in range(0, 20, 4)]  # the first half of the positions
    start = jnp.asarray(head[trained])
    theta = train(start, data, rows, HeadOptions(0.05, epochs=20, batch_tokens=8))
    before, after = nll(start, data), nll(theta, data)
    assert after[:20].mean() < 0.5 * before[:20].mean()
    weights = np.array([1.0, 0, 0, 0, 0])
    alone = train(start, data, rows[:1], HeadOptions(0.05, epochs=1, batch_tokens=20))
    weighted = train(start, data, rows, HeadOptions(0.05, epochs=1, batch_tokens=20), weights)
    np.testing.assert_allclose(weighted, alone, atol=1e-6)

    def loss(theta):
        all_rows = jnp.asarray(head).at[trained].set(theta)
        return jnp.mean(-jax.nn.log_softmax(x[:4] @ all_rows.T)[np.arange(4), labels[:4]])

    direction = np.sign(np.asarray(jax.grad(loss)(start)))
    moved = np.asarray(alone - start)
    assert (np.sign(moved) == -direction)[np.abs(moved) > 1e-3].all()


def planted(selector, values, n=10, tokens=100, equal="tokens"):
    return [
        {
            "setting": {}, "selector": selector, "equal": equal, "n": n, "replicate": k,
            "tokens": tokens, "rows": n, "held_out_nll": v, "validation_nll": v,
            "test_nll": [v, v + 0.1], "bits_per_byte": v,
        }
        for k, v in enumerate(values)
    ]  # fmt: skip


def test_rows_of_two_points_are_no_curve_point():
    with pytest.raises(ValueError, match="4 rows of 2 replicates: choose one point"):
        difference(planted("a", [1.0, 2.0]) * 2, planted("b", [1.0, 2.0]), "held_out_nll")


def test_differences_are_paired():
    a, b = planted("a", [1.0, 2.0, 4.0]), planted("b", [1.5, 2.5, 4.5])
    assert difference(a, b, "held_out_nll") == pytest.approx((-0.5, 0))
    assert two_level(a, b) == pytest.approx((-0.5, -0.5))


def test_tokens_to_match_are_interpolated_in_log_tokens():
    curve = planted("uniform", [3.0, 3.0]) + planted("uniform", [2.0, 2.0], n=40, tokens=400)
    half_way = planted("a", [2.5, 2.5], tokens=100)
    assert np.exp(to_match(half_way, curve).log_ratio.mean) == pytest.approx(2.0)
    same = planted("a", [2.5, 2.5], n=20, tokens=100)  # 20 rows, as 20 of uniform's and 40
    assert np.exp(to_match(same, curve, "rows").log_ratio.mean) == pytest.approx(
        np.exp((np.log(curve[0]["rows"]) + np.log(curve[-1]["rows"])) / 2) / same[0]["rows"]
    )
    beyond = planted("a", [1.0, 1.0], tokens=100)
    assert str(to_match(beyond, curve)) == "at least 4.00 (2 of 2 at the end)"
    assert str(Match(Estimate(np.log(2), 0.1), 0, 0, 5)) == "2.00 (1.81 to 2.21)"
    assert str(Match(Estimate(np.log(2), 0.1), 1, 1, 5)) == "beyond the curve on both sides"


def test_length_and_content_add_up_to_the_advantage():
    curve = planted("uniform", [3.0, 3.2]) + planted("uniform", [2.0, 2.2], n=40, tokens=400)
    uniform = planted("uniform", [3.0, 3.2], equal="examples")
    chosen = planted("a", [2.4, 2.6], tokens=200, equal="examples")
    length, content = length_and_content(chosen, uniform, curve)
    assert (length.mean, content.mean) == pytest.approx((0.5, 0.1))


def test_tables_show_what_was_not_run():
    rows = planted("uniform", [3.0, 3.2]) + planted("a", [2.9, 3.0])
    rows += planted("uniform", [2.0], n=40) + planted("b", [2.5], n=40)
    tables = LanguageTables(rows)
    head, lines = tables.main()
    assert head[1:] == ["equal tokens, n = 10", "equal tokens, n = 40"]
    assert lines[1] == ["a", "-0.1500 ± 0.6353", "not run"]
    assert lines[2][1] == "not run"
    assert tables.variants("equal", 10)[1][1] == ["a", "-0.1000"]
    assert tables.lengths()[1][1][2] == "not run"
    assert tables.matches("equal", "tokens", 10)[1][1] == ["b", "not run"]
    head, lines = tables.matches_by_n("tokens", [10, 40])
    assert head[1:] == ["equal tokens, n = 10", "equal tokens, n = 40"]
    assert lines[0][2] == lines[1][1] == "not run"
    assert tables.main()[1][2] == ["b", "not run", "+0.5000 (one replicate)"]
    assert tables.against(["uniform"], "equal", "tokens", 40)[1][0][2] == "not run"


def test_fractions_are_compared_with_the_whole_pool():
    rows = planted("uniform", [3.0, 3.4]) + planted("uniform", [2.0, 2.2], n=40, tokens=400)
    rows += planted("a", [2.5, 2.9], equal="examples")
    head, lines = LanguageTables(rows).fractions(40)
    assert head[1:] == ["25% of the tokens", "25% of the examples"]
    assert lines[0][1:] == ["+1.1000 ± 1.2706", "not run"]
    assert lines[1][1:] == ["not run", "+0.6000 ± 1.2706"]


def test_picks_say_what_the_selectors_take(model_folder):
    names = ["uniform", "longest", "fisher"]
    given = options(model_folder, budgets=[8], n_prompts=0, selectors=names)
    found = picks.picks(given)
    prepared = language.prepare(given, load_model(given.model), 0, "again")
    facts = picks.facts_of(prepared)
    tokens = [row.split() for row in prepared.pool.rows]
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
    _, lines = picked(found)
    assert [line[0] for line in lines] == ["the pool", "uniform", "longest", "fisher"]


def test_figures_of_a_run_are_drawn(tmp_path):
    rows = planted("uniform", [3.0, 3.2]) + planted("uniform", [2.0, 2.2], n=40, tokens=400)
    rows += planted("uniform", [3.0, 3.2], equal="examples")
    rows += planted("a", [2.5, 2.6], equal="examples", tokens=200)
    alone = planted("a", [2.5], n=40, tokens=300)  # of one replicate, where others have two
    figure = figures.learning_curves({"pool": rows + alone})
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.containers] == ["uniform", "a"]
    assert axes.containers[1].lines[0].get_xdata().tolist() == [200]
    figures.save(figure, tmp_path / "curves.png")
    tables = LanguageTables(rows)
    bars = figures.parts(tables.parts(10)).axes[0].patches
    length, content = (bar.get_width() for bar in bars)
    assert length + content == pytest.approx(0.55)
    assert length == pytest.approx(0.5)


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


def test_a_proxy_selects_for_the_model(model_folder, tmp_path):
    """A GPT-2 of a few steps: its rows are cheaper for it, and the budget is in the model's."""
    config = proxy.CONFIG._replace(vocab=300, dim=8, n_layers=1, n_heads=2, mlp_dim=16)
    texts = [row["text"] for row in shakespeare()[:200]]
    few = proxy.OPTIONS._replace(epochs=1, sequences=2)
    save_folder(proxy.trained("plays", texts, config, few), tmp_path / "gpt2")
    given = options(
        model_folder, method="last_layer", n_prompts=0, selectors=["uniform", "fisher"],
        equal=["tokens"], replicates=1, grid={"proxy": [None, str(tmp_path / "gpt2")]},
    )  # fmt: skip
    rows = language.run(given, tmp_path / "run")
    (n,) = given.budgets
    own, by_proxy = ([r for r in rows if r["setting"]["proxy"] == p] for p in given.grid["proxy"])
    assert own[0]["chosen"] == by_proxy[0]["chosen"]  # uniform
    assert own[1]["chosen"] != by_proxy[1]["chosen"]
    prepared = language.prepare(
        given, load_model(given.model), 0, "", load_model(str(tmp_path / "gpt2"))
    )
    lengths = prepared.rows.counted
    assert prepared.candidates.hidden.tokens.shape[1] == 8
    assert prepared.candidates.hidden.lengths.sum() > lengths.sum()  # more, shorter tokens
    for row in by_proxy:
        assert row["tokens"] == lengths[row["chosen"]].sum() <= n * lengths.mean()
    expected = prepared.candidates.choose("fisher", n=n, equal="tokens", seed=0)
    assert by_proxy[1]["chosen"] == expected.rows.tolist()
