"""The transcript that keeps an endpoint's answers, so that none is paid for twice."""

import json
import re

import pytest

from experiments.judging.judge import judge_pairs, questions_of
from fisher_jax.scoring.endpoint import EndpointError, read_transcript
from tests.helpers.endpoint_judge import PAIRS, judge
from tests.helpers.endpoint_server import failure, shorter


@pytest.fixture
def transcript(tmp_path):
    """Three records, as they stand in the file."""
    path = tmp_path / "answers.jsonl"
    records = [{"key": f"{i}", "answer": "é 1\u2028"} for i in range(3)]
    path.write_bytes(b"".join(json.dumps(r).encode() + b"\n" for r in records))
    return path


def test_a_finished_transcript_needs_no_call(serve, tmp_path):
    server = serve(shorter)
    verdicts = judge_pairs(judge(server, tmp_path), PAIRS)
    assert len(server.calls) == 6
    assert judge_pairs(judge(server, tmp_path), PAIRS) == verdicts
    assert judge_pairs(judge(server, tmp_path), PAIRS[::-1]) == verdicts[::-1]
    assert len(server.calls) == 6
    judge_pairs(judge(server, tmp_path, settings={"max_tokens": 8}), PAIRS[:1])  # other settings
    assert len(server.calls) == 8


def test_a_transcript_has_one_writer_at_a_time(serve, tmp_path):
    def meanwhile(n, body):
        with pytest.raises(EndpointError, match="is being written by another run"):
            judge_pairs(judge(server, tmp_path), PAIRS[1:])
        refused.append(n)
        return shorter(n, body)

    refused, server = [], serve(meanwhile)
    judge_pairs(judge(server, tmp_path), PAIRS[:1])
    assert refused == [0, 1]


def test_a_run_that_ends_early_goes_on_where_it_was(serve, tmp_path):
    server = serve(lambda n, body: shorter(n, body) if n != 3 else failure(400, "no more"))
    with pytest.raises(
        EndpointError,
        match=r"model judge-1 refuses question 3, from 0 .*no more.*answers so far are kept in",
    ):
        judge_pairs(judge(server, tmp_path), PAIRS)
    assert len(server.calls) == 4
    assert len(read_transcript(tmp_path / "answers.jsonl")[0]) == 3
    judge_pairs(judge(server, tmp_path), PAIRS)
    assert len(server.calls) == 4 + 3
    prompts = [body["messages"][0]["content"] for _, body in server.calls]
    assert prompts[:3] + prompts[4:] == [question.text for question in questions_of(PAIRS)]


def test_an_answer_is_on_disk_before_the_next_question(serve, tmp_path):
    lines = []

    def reply(n, body):
        lines.append((tmp_path / "answers.jsonl").read_text().count("\n"))
        return shorter(n, body)

    judge_pairs(judge(serve(reply), tmp_path), PAIRS[:2])
    assert lines == [0, 1, 2, 3]


def test_a_line_cut_off_by_a_kill_is_written_anew(serve, tmp_path):
    server = serve(shorter)
    verdicts = judge_pairs(judge(server, tmp_path), PAIRS)
    path = tmp_path / "answers.jsonl"
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for size in (last + 1, last + 5, len(whole) - 10, len(whole) - 2):
        path.write_bytes(whole[:size])
        assert read_transcript(path)[1] == last
        n = len(server.calls)
        assert judge_pairs(judge(server, tmp_path), PAIRS) == verdicts
        assert len(server.calls) == n + 1
        records, size = read_transcript(path)
        assert len(records) == 6 and size == path.stat().st_size
    path.write_bytes(whole[:-1])  # all but the line's end
    assert judge_pairs(judge(server, tmp_path), [*PAIRS, PAIRS[0]._replace(a="x")])[:3] == verdicts
    assert len(server.calls) == 6 + 4 + 2
    assert len(read_transcript(path)[0]) == 8


@pytest.mark.parametrize(
    ("line", "bad"),
    [(2, b'{"key": "1", "answer"'), (3, b"{}"), (1, b"[]"), (2, b""), (2, b'{"key":1,"answer":2}')],
)
def test_another_malformed_line_is_named(transcript, line, bad):
    lines = transcript.read_bytes().split(b"\n")
    lines[line - 1] = bad
    transcript.write_bytes(b"\n".join(lines))
    with pytest.raises(EndpointError, match=rf"answers.jsonl, line {line} is no kept answer"):
        read_transcript(transcript)


def test_a_file_that_is_no_transcript_is_left_alone(serve, tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text("what I have to buy")
    with pytest.raises(EndpointError, match=r"answers.jsonl, line 1 is no kept answer"):
        judge_pairs(judge(serve(shorter), tmp_path), PAIRS)
    assert path.read_text() == "what I have to buy"


def test_a_transcript_that_has_no_room_is_told_with_its_path(serve, tmp_path):
    resource = pytest.importorskip("resource")  # Windows has none
    judge_pairs(judge(serve(shorter), tmp_path), PAIRS[:1])
    path, (soft, hard) = tmp_path / "answers.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    before = path.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, hard))
    try:
        with pytest.raises(OSError, match=re.escape(f"{path} can't be written")):
            judge_pairs(judge(serve(shorter), tmp_path), PAIRS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes()[: len(before)] == before
    assert len(judge_pairs(judge(serve(shorter), tmp_path), PAIRS)) == len(PAIRS)


def test_a_missing_folder_is_named(serve, tmp_path):
    with pytest.raises(EndpointError, match=r"there is no folder .*nowhere"):
        judge_pairs(judge(serve(shorter), tmp_path / "nowhere"), PAIRS)


def test_a_record_tells_what_was_asked_and_who_answered(serve, tmp_path):
    server = serve(shorter)
    judge_pairs(judge(server, tmp_path), PAIRS[:1])
    first = json.loads((tmp_path / "answers.jsonl").read_text().split("\n")[0])
    assert first["prompt"] == questions_of(PAIRS)[0].text
    assert first["answer"] == "Answer: 2"
    assert (first["model"], first["answered_by"]) == ("judge-1", "judge-1-as-of-today")
    assert first["settings"] == {"temperature": 0, "max_tokens": 16}
    assert (first["tokens_in"], first["tokens_out"]) == (50, 1)
    assert first["base_url"] == server.url


def test_a_dry_run_asks_nothing_and_counts_what_is_left(serve, tmp_path):
    server = serve(shorter)
    asked = judge(server, tmp_path)
    questions = [question.text for question in questions_of([*PAIRS, PAIRS[0]])]
    plan = asked.dry_run(questions, 2.5, 10)
    assert not (tmp_path / "answers.jsonl").exists()
    assert (plan.n_calls, plan.n_known) == (6, 2)  # a pair is there twice
    assert plan.tokens_out == 6 * 16
    assert plan.first == questions[0]
    assert server.calls == []
    judge_pairs(asked, PAIRS[:1])
    plan = asked.dry_run(questions, 2.5, 10)
    assert (plan.n_calls, plan.n_known) == (4, 4)
    assert plan.first == questions[2]
    judge_pairs(asked, PAIRS)
    plan = asked.dry_run(questions, 2.5, 10)
    assert plan.first is None
    assert plan.cost == 0
    with pytest.raises(ValueError, match="settings must have max_tokens"):
        judge(server, tmp_path, settings={}).dry_run(questions, 1, 1)
