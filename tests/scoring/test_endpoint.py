"""The judge behind an endpoint, against real servers on this machine."""

import importlib.util
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.judging.judge import Answer, Verdict, judge_pairs, questions_of
from experiments.judging.judges import EndpointJudge, LocalJudge
from fisher_jax.models.files import export
from fisher_jax.scoring.endpoint import EndpointError, estimate_cost, is_local, read_transcript
from tests.helpers.endpoint_judge import PAIRS, judge
from tests.helpers.endpoint_server import completion, failure, shorter

KEY = "sk-a-secret-of-the-test"


# Asking


def test_questions_go_out_word_for_word_and_answers_come_back(serve, tmp_path):
    server, seen = serve(shorter), []
    verdicts = judge_pairs(judge(server, tmp_path), PAIRS[:2], on_progress=seen.append)
    assert seen == [1, 2, 3, 4]
    assert verdicts[0] == Verdict("To be", Answer("Answer: 2", 2), Answer("1", 1))
    assert [verdict.winner for verdict in verdicts] == ["b", "b"]
    assert [path for path, _ in server.calls] == ["/v1/chat/completions"] * 4
    for (_, body), question in zip(server.calls, questions_of(PAIRS[:2]), strict=True):
        assert body == {
            "model": "judge-1",
            "messages": [{"role": "user", "content": question.text}],
            "temperature": 0,
            "max_tokens": 16,
        }


def test_settings_replace_the_defaults(serve, tmp_path):
    server = serve(shorter)
    judge_pairs(judge(server, tmp_path, settings={"max_completion_tokens": 9}), PAIRS[:1])
    assert set(server.calls[0][1]) == {"model", "messages", "max_completion_tokens"}


def test_another_address_has_other_answers(serve, tmp_path):
    for server in (serve(shorter), serve(lambda n, body: (200, {}, completion("1")))):
        judge_pairs(judge(server, tmp_path), PAIRS[:1])
        assert len(server.calls) == 2


def test_equal_questions_are_asked_once(serve, tmp_path):
    server = serve(shorter)
    verdicts = judge_pairs(judge(server, tmp_path), [PAIRS[0], PAIRS[0]])
    assert len(server.calls) == 2
    assert verdicts[0] == verdicts[1]


def test_a_question_that_a_content_filter_refuses_is_unparsable(serve, tmp_path):
    def reply(n, body):
        if n != 1:
            return shorter(n, body)
        error = {"message": "filtered", "type": None, "code": "content_filter"}
        return 400, {}, {"error": error}

    server = serve(reply)
    verdicts = judge_pairs(judge(server, tmp_path), PAIRS)
    assert [v.winner == "unparsable" for v in verdicts] == [True, *[False] * (len(PAIRS) - 1)]
    assert judge_pairs(judge(server, tmp_path), PAIRS) == verdicts
    assert len(server.calls) == 2 * len(PAIRS)  # it is not asked again
    known = read_transcript(tmp_path / "answers.jsonl")[0].values()
    assert [r["finish_reason"] for r in known].count("content_filter") == 1


def test_an_answer_that_was_cut_chooses_nothing(serve, tmp_path):
    def cut(n, body):
        answer = completion("I need to weigh both; text 1 has")
        answer["choices"][0]["finish_reason"] = "length" if n else "stop"
        return 200, {}, answer

    one, other = judge(serve(cut), tmp_path).answer(questions_of(PAIRS[:1]))
    assert (one.choice, other.choice) == (1, None)


@pytest.mark.parametrize("status", [429, 500])
def test_failed_calls_are_tried_again(serve, tmp_path, status):
    def reply(n, body):
        if n in (0, 2):
            return failure(status, "busy", Retry_After="0.1")
        return shorter(n, body)

    server = serve(reply)
    verdicts = judge_pairs(judge(server, tmp_path), PAIRS[:1])
    assert verdicts[0].winner == "b"
    assert len(server.calls) == 4
    assert server.times[1] - server.times[0] >= 0.1


def test_a_lasting_rate_limit_is_told(serve, tmp_path):
    server = serve(lambda n, body: failure(429, "quota is spent", Retry_After="0.01"))
    with pytest.raises(
        EndpointError, match=r"rate limit or quota .*quota is spent.*lower requests"
    ):
        judge_pairs(judge(server, tmp_path, max_retries=2), PAIRS)
    assert len(server.calls) == 3


def test_requests_per_minute_are_kept(serve, tmp_path):
    asked, times = judge(serve(shorter), tmp_path, requests_per_minute=300), []
    begin = time.monotonic()
    judge_pairs(asked, PAIRS[:2], on_progress=lambda done: times.append(time.monotonic()))
    assert (np.subtract(times, begin) >= [0, 0.2, 0.4, 0.6]).all()
    begin = time.monotonic()
    judge_pairs(asked, PAIRS[:2])
    assert time.monotonic() - begin < 0.6  # what is known doesn't wait


def test_no_key_that_an_answer_repeats_is_kept(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = serve(lambda n, body: (200, {}, completion(f"1, by {KEY}", model=KEY)))
    judge_pairs(judge(server, tmp_path), PAIRS[:1])
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY.encode() not in written and b"1, by [key]" in written


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ({"Content-Type": "text/html"}, "<html>welcome</html>"),
        ({"Content-Type": "application/json"}, "<html>welcome</html>"),
        ({}, {"detail": "not here"}),
        ({}, completion("", choices=[])),
        ({}, completion("", choices={"message": {"content": "1"}})),
        ({}, completion(["a", "list"])),
        ({}, completion("1", usage="much")),
        (
            {},
            completion("1", choices=[{"message": {"content": "1"}, "logprobs": {"content": "a"}}]),
        ),
        ({"Content-Type": "application/json"}, "[" * 100_000),
    ],
)
def test_another_page_is_no_answer(serve, tmp_path, headers, content):
    server = serve(lambda n, body: (200, headers, content))
    with pytest.raises(
        EndpointError, match="no chat completion came back: does base_url end in /v1"
    ):
        judge_pairs(judge(server, tmp_path, max_retries=0), PAIRS)


def test_nobody_there_is_told(serve, tmp_path):
    server = serve(shorter)
    server.shutdown()
    server.server_close()
    with pytest.raises(EndpointError, match="model judge-1: Connection error"):
        judge_pairs(judge(server, tmp_path, max_retries=0), PAIRS)


def test_an_answer_without_words_is_unparsable(serve, tmp_path):
    verdicts = judge_pairs(
        judge(serve(lambda n, body: (200, {}, completion(None))), tmp_path), PAIRS[:1]
    )
    assert verdicts[0].winner == "unparsable"


# Keys


def test_the_key_comes_from_the_environment_and_stays_out_of_the_transcript(
    serve, tmp_path, monkeypatch
):
    server = serve(shorter)
    judge_pairs(judge(server, tmp_path), PAIRS[:1])  # local: none is needed
    assert KEY not in str(server.keys)
    monkeypatch.setenv("OTHER_KEY", KEY + "\n")
    judge_pairs(judge(server, tmp_path, key_variable="OTHER_KEY"), PAIRS[1:2])
    assert server.keys[-1] == f"Bearer {KEY}"
    assert KEY not in (tmp_path / "answers.jsonl").read_text()


def test_a_key_in_headers_is_sent_and_not_kept(serve, tmp_path):
    server = serve(shorter)
    headers = {"Authorization": f"Bearer {KEY}", "X-Key": KEY}
    settings = {"max_tokens": 16, "extra_headers": headers, "extra_query": {"key": KEY}}
    judge_pairs(judge(server, tmp_path, settings=settings), PAIRS[:1])
    assert server.keys == [f"Bearer {KEY}"] * 2 and server.calls[0][0].endswith(f"?key={KEY}")
    assert KEY not in (tmp_path / "answers.jsonl").read_text()
    judge_pairs(judge(server, tmp_path, settings=settings), PAIRS[:1])
    assert len(server.calls) == 2  # what was answered is known again


@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_an_error_that_echoes_the_key_is_told_without_it(serve, tmp_path, monkeypatch, status):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    far = "x" * 180  # so that a cut at 200 characters would fall into the key
    for message in (f"Incorrect API key provided: {KEY}.", f"{far}{KEY}"):
        server = serve(lambda n, body, told=message: failure(status, told))
        with pytest.raises(EndpointError) as error:
            judge_pairs(judge(server, tmp_path, max_retries=0), PAIRS[:1])
        assert KEY[:6] not in str(error.value)
    assert error.value.__cause__ is None and error.value.__suppress_context__


@pytest.mark.parametrize(
    "url",
    [
        "https://judge.invalid/v1?api_key=secret",
        "https://judge.invalid/v1#secret",
        "https://user:secret@judge.invalid/v1",
        "judge.invalid/v1?api_key=secret",
        "user:secret@judge.invalid/v1",
    ],
)
def test_an_address_with_a_key_is_refused_and_not_shown(tmp_path, url):
    with pytest.raises(ValueError, match="base_url must hold no user, password or query") as error:
        EndpointJudge("judge-1", tmp_path / "answers.jsonl", url)
    assert "secret" not in str(error.value)


def test_a_distant_endpoint_without_a_key_is_refused(tmp_path):
    pytest.importorskip("openai")
    path = tmp_path / "answers.jsonl"
    distant = EndpointJudge("judge-1", path, "https://judge.invalid/v1", key_variable="OTHER_KEY")
    with pytest.raises(EndpointError, match=r"judge.invalid/v1 needs a key.* variable OTHER_KEY"):
        judge_pairs(distant, PAIRS)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://localhost:8000/v1", True),
        ("http://127.0.0.1/v1", True),
        ("http://[::1]:80/v1", True),
        ("https://api.openai.com/v1", False),
        ("http://10.0.0.1/v1", False),
        ("http://localhost.example.org/v1", False),
    ],
)
def test_local_is_this_machine_only(url, local):
    assert is_local(url) == local


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)  # as if it weren't installed
    local = EndpointJudge("judge-1", tmp_path / "answers.jsonl", "http://localhost:1/v1")
    with pytest.raises(EndpointError, match=r"pip install 'fisher-jax\[judge\]'"):
        judge_pairs(local, PAIRS)
    assert local.dry_run([q.text for q in questions_of(PAIRS)], 1, 1).n_calls == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "api.openai.com/v1"}, "base_url must begin with https://"),
        ({"base_url": "ftp://openai.com/v1"}, "base_url must begin with https://"),
        ({"requests_per_minute": 0}, "requests_per_minute must be above 0, got 0"),
        ({"max_retries": -1}, "max_retries must be at least 0 and timeout above 0, got -1"),
        ({"timeout": 0}, "timeout above 0, got 8 and 0"),
        ({"settings": {"stream": True}}, "settings must leave .* alone, got 'stream'"),
        ({"settings": {"temperature": float("nan")}}, "settings must be plain JSON"),
        ({"settings": {"stop": {1}}}, "settings must be plain JSON"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        EndpointJudge("judge-1", tmp_path / "answers.jsonl", **options)


# Costs


def test_the_estimate_is_tokens_times_prices():
    got = estimate_cost(["x" * 400, "y" * 401], 2.5, 10.0, 16)
    assert (got.n_calls, got.tokens_in, got.tokens_out) == (2, 100 + 101, 32)
    assert got.cost == pytest.approx((201 * 2.5 + 32 * 10) / 1e6)
    with pytest.raises(ValueError, match="price_out must be a price per million tokens, got -1"):
        estimate_cost(["x"], 1, -1, 16)


# A real model behind a real server


@pytest.fixture(scope="module")
def served(tmp_path_factory, request):
    """SmolLM2 behind `transformers serve`: its address, its folder, and the model in JAX."""
    missing = [
        name
        for name in ("torch", "accelerate", "openai", "fastapi", "uvicorn", "pydantic")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        pytest.skip(f"transformers serve needs {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("served")
    model = request.getfixturevalue("smollm2")
    export.save_folder(model, folder)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]  # free a moment ago
    log = tmp_path_factory.mktemp("log") / "server.txt"
    command = Path(sys.executable).with_name("transformers")
    options = ["--host", "127.0.0.1", "--device", "cpu", "--dtype", "float32"]
    with log.open("w") as out:
        process = subprocess.Popen(
            [command, "serve", folder, *options, "--port", str(port)],
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline, up = time.monotonic() + 240, False
        while not up:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"transformers serve did not come up: {log.read_text()[-1000:]}")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                up = True
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1", str(folder), model
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


@pytest.mark.slow
@pytest.mark.parity
def test_a_served_model_answers_as_the_same_model_in_jax(served, tmp_path):
    url, name, model = served
    settings = {"temperature": 0, "max_tokens": 1}
    path = tmp_path / "answers.jsonl"
    endpoint = EndpointJudge(name, path, url, max_retries=1, timeout=60, settings=settings)
    questions = questions_of(PAIRS[:1])
    answers = endpoint.answer(questions)
    local = LocalJudge(model)
    for question, answer in zip(questions, answers, strict=True):
        (ids,) = local.tokenize([question.text])
        hidden_1xTxD = model.module(jnp.asarray([ids]))
        best = int(jnp.argmax(hidden_1xTxD[0, -1] @ model.module.head.T))
        assert answer.raw == model.tokenizer.decode([best])
    records = read_transcript(path)[0].values()
    assert [record["tokens_in"] for record in records] == [
        len(ids) for ids in local.tokenize([question.text for question in questions])
    ]
    assert endpoint.answer(questions) == answers
