"""Popular fine-tuning sets as their cards describe them: in without renaming a column, and out."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fisher_jax.data import Columns, Example, PoolError
from fisher_jax.data.output import write_selection
from fisher_jax.data.pool_file import read_pool
from fisher_jax.models.chat import written
from tests.helpers.word_model import language_model

N, K = 50, 7
ORDER = np.random.default_rng(0).permutation(N)[:K]


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


def spoken(*turns):
    """ShareGPT's messages."""
    return [{"from": speaker, "value": text} for speaker, text in turns]


def turns(i, n=2):
    """A chat of n questions, every third with a system turn."""
    chat = [m for k in range(n) for m in (user(f"question {i}.{k}?"), assistant(f"answer {i}.{k}"))]
    return [system("Be brief."), *chat] if i % 3 == 0 else chat


def of_gpt(i, n=2, **more):
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    return [{"from": names[m["role"]], "value": m["content"], **more} for m in turns(i, n)]


def parts(i):
    """Content in parts, and a call of a tool with its answer."""
    call = [{"type": "function", "function": {"name": "clock", "arguments": {"zone": "UTC"}}}]
    if i % 2:
        return turns(i)
    return [
        {"role": "user", "content": [{"type": "text", "text": f"time {i}?"}]},
        {"role": "assistant", "content": None, "tool_calls": call},
        {"role": "tool", "content": "12:00", "name": "clock"},
        assistant("Noon."),
    ]


# name: what a row has, the shape that is told, and the text of the answers in row 1
SETS = {
    "tatsu-lab/alpaca": (
        lambda i: {
            "instruction": f"Sort {i}.",
            "input": "" if i % 2 else "b, a",
            "output": f"a, b {i}",
            "text": f"Below is an instruction.\n\n### Instruction:\nSort {i}.",
        },
        "alpaca", ["a, b 1"],
    ),
    "databricks/databricks-dolly-15k": (
        lambda i: {
            "instruction": f"Who {i}?",
            "context": "" if i % 2 else "A text.",
            "response": f"She {i}.",
            "category": "closed_qa",
        },
        "dolly", ["She 1."],
    ),
    "OpenAssistant/oasst1": (
        lambda i: {
            "message_id": f"m{i}",
            "parent_id": None if i % 4 == 0 else f"m{i - 1}",
            "text": f"Message {i}.",
            "role": ["prompter", "assistant"][i % 2],
            "lang": "en",
            "rank": None if i % 2 == 0 else 0,
            "labels": {"name": ["spam"], "value": [0.0]},
        },
        "text", ["Message 1."],
    ),
    "anon8231489123/ShareGPT_Vicuna_unfiltered": (
        lambda i: {"id": f"x{i}", "conversations": of_gpt(i)},
        "sharegpt", ["answer 1.0", "answer 1.1"],
    ),
    "HuggingFaceH4/ultrachat_200k": (
        lambda i: {"prompt": f"question {i}.0?", "prompt_id": f"{i:064x}", "messages": turns(i, 3)},
        "messages", ["answer 1.0", "answer 1.1", "answer 1.2"],
    ),
    "teknium/OpenHermes-2.5": (
        lambda i: {
            "conversations": of_gpt(i, 1, weight=None),
            "source": "airoboros2.2",
            "category": None,
            "system_prompt": None,
            "skip_prompt_formatting": False if i % 2 else None,
        },
        "sharegpt", ["answer 1.0"],
    ),
    "WizardLMTeam/WizardLM_evol_instruct_V2_196k": (
        lambda i: {"idx": f"w{i}", "conversations": of_gpt(i, 1)},
        "sharegpt", ["answer 1.0"],
    ),
    "Muennighoff/flan": (
        lambda i: {"inputs": f"Is it {i}?", "targets": f"It is {i}.", "task": "anli_r1:0.1.0"},
        "flan", ["It is 1."],
    ),
    "openai/gsm8k": (
        lambda i: {"question": f"{i} + 1?", "answer": f"{i} + 1 = <<{i}+1={i + 1}>>\n#### {i + 1}"},
        "question-answer", ["1 + 1 = <<1+1=2>>\n#### 2"],
    ),
    "meta-math/MetaMathQA": (
        lambda i: {
            "type": "GSM_Rephrased",
            "query": f"What is {i}?",
            "original_question": f"{i}?",
            "response": f"The answer is: {i}",
        },
        "query-response", ["The answer is: 1"],
    ),
    "Magpie-Align/Magpie-Pro-300K-Filtered": (
        lambda i: {
            "uuid": f"u{i}",
            "model": "llama",
            "instruction": f"question {i}.0?",
            "response": f"answer {i}.0",
            "conversations": of_gpt(i, 1),
            "min_similar_uuid": None,
            "instruct_reward": -1.5,
        },
        "sharegpt", ["answer 1.0"],
    ),
    "allenai/tulu-3-sft-mixture": (
        lambda i: {"id": f"t{i}", "messages": turns(i), "source": "ai2-adapt-dev/no_robots"},
        "messages", ["answer 1.0", "answer 1.1"],
    ),
    "GAIR/lima": (
        lambda i: {
            "conversations": [f"question {i}?", f"answer {i}", *["and?", "so."] * (i % 2)],
            "source": "stackexchange",
        },
        "sharegpt", ["answer 1", "so."],
    ),
    "HuggingFaceH4/no_robots": (
        lambda i: {
            "prompt": f"question {i}.0?",
            "prompt_id": f"{i:064x}",
            "messages": turns(i, 1),
            "category": "Open QA",
        },
        "messages", ["answer 1.0"],
    ),
    "Open-Orca/SlimOrca": (
        lambda i: {
            "conversations": [
                {"from": "system", "value": "You help.", "weight": None},
                {"from": "human", "value": f"question {i}?", "weight": 0.0},
                {"from": "gpt", "value": f"answer {i}", "weight": 1.0},
            ]
        },
        "sharegpt", ["answer 1"],
    ),
    "sahil2801/CodeAlpaca-20k": (
        lambda i: {"instruction": f"Print {i}.", "input": "", "output": f"print({i})"},
        "alpaca", ["print(1)"],
    ),
    "LDJnr/Capybara": (
        lambda i: {
            "source": "Dove",
            "conversation": [
                {"input": f"question {i}.{k}?", "output": f"answer {i}.{k}"} for k in (0, 1)
            ],
        },
        "conversation", ["answer 1.0", "answer 1.1"],
    ),
    "HuggingFaceTB/smoltalk": (
        lambda i: {"messages": parts(i), "source": "apigen-80k"},
        "messages", ["answer 1.0", "answer 1.1"],
    ),
    "Salesforce/xlam-function-calling-60k": (
        lambda i: {
            "id": i,
            "query": f"What is the time in {i}?",
            "answers": json.dumps([{"name": "clock", "arguments": {"zone": str(i)}}]),
            "tools": json.dumps([{"name": "clock", "description": "", "parameters": {}}]),
        },
        "query-answers", ['[{"name": "clock", "arguments": {"zone": "1"}}]'],
    ),
    "Anthropic/hh-rlhf": (
        lambda i: {
            "chosen": f"\n\nHuman: question {i}?\n\nAssistant: answer {i}\n\nHuman: And?"
            "\n\nAssistant: So.",
            "rejected": f"\n\nHuman: question {i}?\n\nAssistant: no\n\nHuman: And?"
            "\n\nAssistant: No.",
        },
        "chosen", ["answer 1", "So."],
    ),
}  # fmt: skip


def written_as(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def rows_in(path):
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".json":
        return json.loads(path.read_text())
    return [json.loads(line) for line in path.read_text().splitlines()]


def choose(pool, out):
    write_selection(out, out, pool, ORDER, np.arange(K) / 2)
    return rows_in(out)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("name", SETS)
def test_a_set_goes_in_as_it_is_and_out_in_its_own_shape(name, suffix, tmp_path):
    row, shape, answers = SETS[name]
    rows = [row(i) for i in range(N)]
    if suffix == ".parquet" and name == "HuggingFaceTB/smoltalk":
        rows = [row(i) for i in range(1, 2 * N, 2)]  # a column of Arrow has strings or parts
    path = written_as(tmp_path / f"pool{suffix}", rows)
    kept = rows_in(path)  # Arrow fills in nulls
    pool = read_pool(path)
    assert len(pool) == len(pool.rows) == N and not pool.bad
    assert pool.shape.split(" (")[0] == shape
    one = pool.rows[0 if rows[0] == row(1) else 1]
    if one.is_chat:
        said = [m["content"] for m in one.messages if m["role"] == "assistant"]
        assert one.has_prompt and one.messages[0]["role"] in ("user", "system")
    else:
        said = [one.completion]
    assert said == answers
    for out in (tmp_path / "out.jsonl", tmp_path / "out.json", tmp_path / "out.parquet"):
        if out.suffix == ".parquet" and name == "HuggingFaceTB/smoltalk" and suffix != ".parquet":
            with pytest.raises(ValueError, match=r"can't hold .*write another format"):
                choose(pool, out)
            continue
        chosen = choose(pool, out)
        assert [r.pop("fisher_rank") for r in chosen] == [*range(K)]
        assert [r.pop("fisher_gain") for r in chosen] == (np.arange(K) / 2).tolist()
        assert [without_nulls(r) for r in chosen] == [without_nulls(kept[i]) for i in ORDER]
        assert len(read_pool(out).rows) == K


TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content or '' }}"
    "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def model():
    return language_model(template=TEMPLATE)


@pytest.mark.parametrize("name", [name for name, (_, shape, _) in SETS.items() if shape != "text"])
def test_the_answers_of_a_set_are_learnt_by_a_chat_template(name, model, tmp_path):
    row, _, answers = SETS[name]
    (read,) = read_pool(written_as(tmp_path / "pool.jsonl", [row(1)])).rows
    chat = written(model, read, name)
    learnt = [chat.text[begin:end] for begin, end in chat.spans]
    assert [text.removeprefix("<assistant>").strip() for text in learnt] == answers
    assert all(said in chat.text for _, said in read.parts())


def without_nulls(value):
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return [without_nulls(v) for v in value] if isinstance(value, list) else value


def test_what_goes_with_an_instruction_is_not_lost(tmp_path):
    row = {"instruction": "Sort.", "input": "b, a", "output": "a, b", "system": "Be brief."}
    (got,) = read_pool(written_as(tmp_path / "p.jsonl", [row])).rows
    assert got.prompt == [system("Be brief."), user("Sort.\n\nb, a")]
    assert got.completion == [assistant("a, b")]


Q, A, PAIR = user("Sort.\n\nb, a"), assistant("a, b"), ["Hi.", "Hello."]
ALPACA = {"instruction": "Sort.", "input": "b, a", "output": "a, b"}


@pytest.mark.parametrize(
    ("row", "columns", "expected", "told"),
    [
        (
            {**ALPACA, "history": [PAIR]},
            Columns(),
            Example([A], [user("Hi."), assistant("Hello."), Q]),
            "alpaca (instruction + output), with input, history",
        ),
        (
            ALPACA,
            Columns(prompt="instruction", completion="output"),
            Example("a, b", "Sort.\n\nb, a"),
            "prompt-completion (instruction + output), with input",
        ),
        (
            {"question": "Who?", "answer": "Ada.", "context": "Ada did."},
            Columns(),
            Example([assistant("Ada.")], [user("Who?\n\nAda did.")]),
            "question-answer (question + answer), with context",
        ),
        (
            {"prompt": "p", "completion": "c", "system": "Be brief."},
            Columns(),
            Example("c", "p"),
            "prompt-completion (prompt + completion), without system",
        ),
        (
            {"messages": [Q, A], "system": "Be brief."},
            Columns(),
            Example([system("Be brief."), Q, A]),
            "messages (messages), with system",
        ),
        ({"prompt": "p", "chosen": "c", "rejected": "d"}, Columns(), Example("c", "p"), None),
        ({"prompt": [Q], "chosen": [A], "rejected": []}, Columns(), Example([A], [Q]), None),
        ({"prompt": [Q], "chosen": [Q, A], "rejected": []}, Columns(), Example([A], [Q]), None),
        (
            {"prompt": [Q], "chosen": [system("Be brief."), Q, A]},
            Columns(),
            Example([A], [system("Be brief."), Q]),
            None,
        ),
        ({"prompt": "p", "chosen": [A]}, Columns(), Example([A], [user("p")]), None),
        ({"prompt": "p", "chosen": [Q, A]}, Columns(), Example([Q, A]), None),
        (
            {"prompt": "p", "chosen": "\n\nHuman: q\n\nAssistant: a"},
            Columns(),
            Example([user("q"), assistant("a")]),
            "chosen (chosen), with prompt",
        ),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_what_goes_with_a_question_is_read_or_told(suffix, row, columns, expected, told, tmp_path):
    pool = read_pool(written_as(tmp_path / f"p{suffix}", [row]), columns)
    assert pool.rows == [expected]
    assert pool.shape == (told or "chosen (chosen), with prompt")


def test_what_a_question_can_not_take_along_is_refused(tmp_path):
    row = {"question": "Who?", "answer": "Ada.", "context": ["Ada did."]}
    path = written_as(tmp_path / "p.jsonl", [row])
    with pytest.raises(PoolError, match="without it name `prompt_column=question`"):
        read_pool(path)
    pool = read_pool(path, Columns(prompt="question", completion="answer"))
    assert pool.shape == "prompt-completion (question + answer), without context"
    for history in (5, ["a"], [["a", 1]]):
        path = written_as(tmp_path / "q.jsonl", [{**ALPACA, "history": history}])
        with pytest.raises(PoolError, match="'history' holds something else than pairs"):
            read_pool(path)


def test_tools_and_calls_reach_the_template(tmp_path):
    make = SETS["Salesforce/xlam-function-calling-60k"][0]
    (got,) = read_pool(written_as(tmp_path / "p.jsonl", [make(0)])).rows
    clock = {"name": "clock", "description": "", "parameters": {}}
    assert got.tools == [{"type": "function", "function": clock}]
    (got,) = read_pool(written_as(tmp_path / "q.jsonl", [{"messages": parts(0)}])).rows
    assert [m["content"] for m in got.messages] == ["time 0?", None, "12:00", "Noon."]
    assert got.messages[1]["tool_calls"][0]["function"]["arguments"] == {"zone": "UTC"}


def test_messages_written_as_json_are_read(tmp_path):
    rows = [{"messages": json.dumps(turns(1))}, {"messages": json.dumps(turns(2))}]
    pool = read_pool(written_as(tmp_path / "p.parquet", rows))
    assert [row.messages for row in pool.rows] == [turns(1), turns(2)]
