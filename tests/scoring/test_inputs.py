"""What selectors are told by the model, in Python and by `fisher-select --selector`."""

from pathlib import Path

import numpy as np
import pytest

import fisher_jax as fj
from fisher_jax.data import Example
from fisher_jax.models.embed import tokenize
from fisher_jax.models.load import load_model
from fisher_jax.scoring import quality
from fisher_jax.scoring.inputs import Inputs
from fisher_jax.scoring.scores import labels_of
from fisher_jax.selectors import SELECTORS
from tests.helpers.cli import K, manifest_of, ranking_of, texts, write_rows
from tests.helpers.endpoint_server import likely

TOLD = ["perplexity_middle", "el2n", "fisher_weighted", "badge", "adaicl", "sensitivity"]


@pytest.fixture
def problem(llama):
    model, rows = load_model(str(llama)), texts()
    hidden = fj.embed(rows, model, normalize="none")
    return model, rows, hidden, labels_of(tokenize(model, rows))


def test_inputs_are_those_of_the_full_softmax(problem, monkeypatch):
    monkeypatch.setattr("fisher_jax.scoring.inputs.TOP", 5)
    model, rows, hidden, labels = problem
    inputs = Inputs(hidden, np.asarray(model.module.head), labels, rows, model)
    logits = hidden.tokens.astype(np.float64) @ np.asarray(model.module.head, np.float64).T
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    of_label = p[np.arange(len(p)), labels]

    def by_row(values):
        return [
            values[a:b].mean() for a, b in zip(hidden.offsets, hidden.offsets[1:], strict=False)
        ]

    error = p.copy()
    error[np.arange(len(p)), labels] -= 1
    error = np.linalg.norm(error, axis=1)
    trace = 1 - np.sum(p**2, axis=1)
    expected = {
        "losses": by_row(-np.log(of_label)),
        "uncertainty": by_row(-np.sum(p * np.log(p), axis=1)),
        "el2n": by_row(error),
        "gradient_norm": by_row(error * np.linalg.norm(hidden.tokens, axis=1)),
        "weights": trace / trace.mean(),
        "probabilities": np.where(p >= -np.sort(-p, axis=1)[:, 4:5], p, 0),
    }
    for name, values in expected.items():
        got = inputs[name].toarray() if name == "probabilities" else inputs[name]
        np.testing.assert_allclose(got, values, rtol=1e-5, err_msg=name)
        some, values = np.array([2, 0]), np.asarray(values)
        of_tokens = np.concatenate([np.arange(*hidden.offsets[i : i + 2]) for i in some])
        cut = np.asarray(values)[
            some if np.ndim(values) == 1 and len(values) == len(rows) else of_tokens
        ]
        part = inputs.of(name, some)
        part = part.toarray() if name == "probabilities" else part
        np.testing.assert_allclose(part, cut, rtol=1e-5, err_msg=name)
    told = {need for rule in SELECTORS.values() if not rule.planted for need in rule.needs}
    assert told == {*expected, "quality", "ifd", "targets"}
    for name in ("quality", "ifd"):
        with pytest.raises(KeyError, match=name):
            Inputs(hidden, np.asarray(model.module.head), labels)[name]


@pytest.mark.parametrize("name", TOLD)
def test_a_selector_told_by_the_model_is_the_librarys(name, run, out, tmp_path, problem, llama):
    model, rows, hidden, labels = problem
    pool = write_rows(tmp_path / "pool.jsonl", [{"text": row} for row in rows])
    argv = [pool, "-o", out, "--model", llama, "--n-samples", K, "--selector", name, "--seed", 3]
    code, messages = run(*argv)
    assert code == 0 and "scoring" in messages
    inputs = Inputs(hidden, model.module.head, labels, rows, model)
    selector = SELECTORS[name]
    given = {needed: inputs[needed] for needed in selector.needs}
    expected = selector(fj.embed(rows, model), n_samples=K, seed=3, **given)
    assert ranking_of(out)["index"] == expected.ranking.tolist()
    assert manifest_of(out)["options"]["selector"] == name


def test_ask_llm_asks_an_endpoint(run, out, tmp_path, problem, llama, serve):
    _, rows, _, _ = problem
    pool = write_rows(tmp_path / "pool.jsonl", [{"text": row} for row in rows])
    server = serve(lambda n, body: (200, {}, likely({"yes": (n + 1) / 10, "no": 0.05})))
    argv = [pool, "-o", out, "--model", llama, "--n-samples", K, "--selector", "ask_llm"]
    asked = ["--endpoint", server.url, "--endpoint-model", "asked"]
    code, messages = run(*argv, *asked)
    assert code == 0
    assert f"asked at {server.url} is asked {len(rows)} questions" in messages
    assert ranking_of(out)["index"] == [*range(len(rows))][: -K - 1 : -1]
    assert [body["model"] for _, body in server.calls] == ["asked"] * len(rows)
    assert run(*argv, *asked, "--overwrite")[0] == 0
    assert len(server.calls) == len(rows)  # answered in OUT.answers.jsonl
    manifest = manifest_of(out)
    assert manifest["options"]["endpoint"] == server.url
    assert manifest["result"]["endpoint_settings"] == quality.ASK_SETTINGS
    assert Path(manifest["result"]["answers"]).name == f"{out.name}.answers.jsonl"
    assert not any("is asked" in note for note in manifest["notes"])
    code, messages = run(*argv, *asked, "--overwrite", "--report-dir", f"{out}.answers.jsonl")
    assert code == 2 and "is where the endpoint's answers go" in messages


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--endpoint", "http://localhost:1/v1"], "go together: give both"),
        (["--endpoint-model", "m"], "go together: give both"),
        (
            ["--endpoint", "https://x.test/v1", "--endpoint-model", "m"],
            "needs a key: put it into the environment variable OPENAI_API_KEY",
        ),
        (
            ["--endpoint", "ftp://x", "--endpoint-model", "m"],
            "--endpoint: base_url must begin with https:// or http://",
        ),
        (
            ["--endpoint", "http://me:word@localhost:1/v1", "--endpoint-model", "m"],
            "--endpoint: base_url must hold no user, password or query",
        ),
        (["--endpoint", "http://localhost:1/v1", "--endpoint-model", ""], "it is empty"),
        (
            ["--endpoint", "http://x", "--endpoint-model", "m", "--selector", "el2n"],
            "--endpoint goes with --selector ask_llm",
        ),
    ],
)
def test_an_endpoint_that_cannot_be_asked_is_told_before_any_work(
    words, message, out, tmp_path, problem, refused
):
    pool = write_rows(tmp_path / "pool.jsonl", [{"text": row} for row in problem[1]])
    argv = [pool, "-o", out, "--model", "no-model", "--n-samples", K, "--selector", "ask_llm"]
    pytest.importorskip("openai", reason="needs openai: pip install 'fisher-jax[judge]'")
    refused([*argv, *words], [message])


@pytest.mark.parametrize("name", [name for name, rule in SELECTORS.items() if rule.targeted])
@pytest.mark.parametrize("center", [[], ["--center"]])
def test_rows_are_chosen_for_a_task(name, center, run, out, tmp_path, problem, llama):
    model, rows, hidden, _ = problem
    task = [row[: len(row) // 2] for row in texts(seed=5, n=3)]
    pool = write_rows(tmp_path / "pool.jsonl", [{"text": row} for row in rows])
    targets = tmp_path / "task.txt"
    targets.write_text("\n".join(task) + "\n")
    argv = [pool, "-o", out, "--model", llama, "--n-samples", K, "--selector", name, *center]
    assert run(*argv, "--targets", targets)[0] == 0
    wanted = fj.embed(task, model, normalize="none")
    emb, wanted = hidden.tokens.astype(np.float64), wanted.tokens.astype(np.float64)
    if center:
        emb, wanted = emb - emb.mean(axis=0), wanted - emb.mean(axis=0)
    scale = np.sqrt(np.mean(np.sum(emb**2, axis=1)))
    lengths = [len(ids) - 1 for ids in tokenize(model, task).ids]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    given = fj.TokenEmbeddings((wanted / scale).astype(np.float32), offsets)
    emb = fj.TokenEmbeddings((emb / scale).astype(np.float32), hidden.offsets)
    expected = SELECTORS[name](emb, n_samples=K, targets=given)
    assert ranking_of(out)["index"] == expected.ranking.tolist()
    assert manifest_of(out)["result"]["targets"] == str(targets)


def test_rows_of_a_task_follow_the_pools_options(run, out, tmp_path, llama):
    pool = write_rows(tmp_path / "pool.jsonl", [{"body": row} for row in texts()])
    rows = [*texts(seed=5, n=3), "a"]
    argv = [pool, "-o", out, "--model", llama, "--n-samples", K, "--selector", "i_optimal"]
    argv += ["--text-column", "body", "--max-length", 4, "--on-empty", "skip"]
    argv += ["--normalize", "unit", "--overwrite", "--targets"]
    plain = tmp_path / "task.txt"  # has no columns
    plain.write_text("\n".join(rows) + "\n")
    earlier = write_rows(
        tmp_path / "earlier.jsonl", [{"body": row, "fisher_rank": 0} for row in rows]
    )
    chosen = []
    for task in (plain, earlier):
        code, messages = run(*argv, task)
        assert code == 0
        assert "1 row of the task with no token to predict was skipped." in messages
        assert "3 rows of the task were longer than 4 tokens and were cut." in messages
        chosen.append(ranking_of(out)["index"])
    assert chosen[0] == chosen[1]
    text_pool = tmp_path / "pool.txt"
    text_pool.write_text("\n".join(texts()) + "\n")
    assert run(text_pool, *argv[1:], earlier)[0] == 0  # the column is the task's
    assert ranking_of(out)["index"] == chosen[0]
    model = load_model(str(llama))
    options = {"max_length": 4, "normalize": "unit"}
    emb, targets = fj.embed(texts(), model, **options), fj.embed(rows[:3], model, **options)
    expected = SELECTORS["i_optimal"](emb, n_samples=K, targets=targets)
    assert chosen[0] == expected.ranking.tolist()


def test_a_task_that_cannot_be_used_is_refused(out, tmp_path, llama, refused):
    pool = write_rows(tmp_path / "pool.jsonl", [{"text": row} for row in texts()])
    argv = [pool, "-o", out, "--model", llama, "--n-samples", K]
    refused([*argv, "--selector", "rds"], ["--selector rds", "--targets FILE"])
    empty = write_rows(tmp_path / "task.jsonl", [{"text": "a b"}, {"text": "a"}])
    refused([*argv, "--targets", empty], ["--targets goes with --selector i_optimal"])
    argv += ["--selector", "rds", "--targets"]
    refused([*argv, empty], [empty, "1 row(s) have no token to predict (line 2)", "--on-empty"])
    refused([*argv, tmp_path / "no.jsonl"], [tmp_path / "no.jsonl"])
    prompts = write_rows(tmp_path / "p.jsonl", [{"prompt": "a b ", "completion": "c"}] * K)
    of_prompts = [prompts, *argv[1:], empty, "--positions", "prompt"]
    refused(
        of_prompts,
        [f"{empty}, line 1 has no prompt: --positions prompt is for prompt + completion rows"],
    )
    refused([*argv, pool, "--overwrite", "-o", pool], [pool, "which is read"])


def test_rows_without_a_prompt_have_no_ifd(out, tmp_path, llama, refused):
    pool = write_rows(tmp_path / "pool.jsonl", [{"text": row} for row in texts()])
    argv = [pool, "-o", out, "--model", llama, "--n-samples", K, "--selector", "ifd"]
    refused(argv, [pool, "line 1 has no prompt: --selector ifd is for prompt + completion rows"])


def test_rows_that_ifd_cannot_compare_are_an_error_or_skipped(run, out, tmp_path, llama, refused):
    rows = [{"prompt": "a b ", "completion": text} for text in texts()]
    rows[1]["prompt"] = ""
    rows[4]["completion"] = "c"  # without its prompt nothing predicts it
    pool = write_rows(tmp_path / "pool.jsonl", rows)
    argv = [pool, "-o", out, "--model", llama, "--n-samples", K, "--selector", "ifd"]
    refused(argv, ["2 row(s) have no prompt or no token to predict without it (line 2, line 5)"])
    assert run(*argv, "--on-empty", "skip")[0] == 0
    model = load_model(str(llama))
    kept = [i for i in range(len(rows)) if i not in (1, 4)]
    values = quality.ifd(model, [Example(**rows[i]) for i in kept])
    order = np.argsort(np.where(values > 1, np.inf, -values), kind="stable")
    n = min(K, int(np.sum(values <= 1)))
    assert n > 0
    assert ranking_of(out)["index"][:n] == [kept[i] for i in order[:n]]
    again = [*argv, "--on-empty", "skip", "--overwrite", "--positions", "all"]
    assert run(*again)[0] == 0 and ranking_of(out)["index"][:n] == [kept[i] for i in order[:n]]


@pytest.mark.parametrize("name", ["perplexity_low", "ask_llm", "sensitivity"])
def test_prompts_alone_have_no_losses(name, out, tmp_path, llama, refused):
    rows = [{"prompt": "a b ", "completion": text} for text in texts()]
    argv = [write_rows(tmp_path / "pool.jsonl", rows), "-o", out, "--model", llama]
    argv += ["--n-samples", K, "--selector", name, "--positions", "prompt"]
    refused(argv, [f"--selector {name} looks at completions", "--positions prompt"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("el2n", ["--selector el2n asks the model", "--model"]),
        ("rds", ["--selector rds chooses for a task", "--target-embeddings FILE"]),
        ("exact_information", ["there is no selector 'exact_information'"]),
    ],
)
def test_ready_embeddings_tell_no_losses(name, words, ready, out, refused):
    refused([*ready, "-o", out, "--n-samples", K, "--selector", name], words)
