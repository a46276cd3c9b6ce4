"""Rows of messages: written by the model's chat template, as TRL reads them."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fisher_jax as fj
from fisher_jax.data import Columns, Example
from fisher_jax.data.duplicates import deduplicate_exact, deduplicate_near
from fisher_jax.data.pool_file import read_pool
from fisher_jax.models.chat import written
from fisher_jax.models.tokenize import shown, tokenize
from fisher_jax.scoring.quality import ask_questions
from tests.helpers.cli import N, page_of, read_rows, texts, write_rows
from tests.helpers.word_model import language_model

ASKS = {"role": "user", "content": "Which day is it?"}
SAYS = {"role": "assistant", "content": "Monday."}
TELLS = {"role": "system", "content": "Be brief."}
WORDS = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def ids_of(model, messages, **options):
    return model.tokenizer.apply_chat_template(messages, return_dict=False, **options)


@pytest.fixture
def model(smollm2, monkeypatch):
    """SmolLM2 with a template of the test's."""

    def with_template(template):
        monkeypatch.setattr(smollm2.tokenizer, "chat_template", template)
        return smollm2

    return with_template


def marked(model, row, **options):
    """The row's tokens as text, what is learnt between brackets."""
    return shown(model, tokenize(model, [row], **options), 0)


def test_messages_are_the_templates_tokens_and_the_assistants_count(smollm2):
    chat = [TELLS, ASKS, SAYS, ASKS, SAYS | {"content": "Still Monday."}]
    tokens = tokenize(smollm2, [Example(chat)])
    assert tokens.ids[0].tolist() == ids_of(smollm2, chat)
    said = [smollm2.tokenizer.decode(labels) for labels in tokens.labels]
    assert said == ["Monday.<|im_end|>\nStill Monday.<|im_end|>\n"]
    everything = tokenize(smollm2, [Example(chat)], positions="all")
    assert everything.counted.tolist() == [len(tokens.ids[0]) - 1]
    before = tokenize(smollm2, [Example(chat)], positions="prompt")
    asked = ids_of(smollm2, [TELLS, ASKS], add_generation_prompt=True)
    assert before.ids[0].tolist()[:-1] == asked


def test_of_a_prompt_and_a_completion_the_answer_counts(smollm2):
    tokens = tokenize(smollm2, [Example([SAYS], [TELLS, ASKS])])
    asked = ids_of(smollm2, [TELLS, ASKS], add_generation_prompt=True)
    assert tokens.ids[0].tolist() == ids_of(smollm2, [TELLS, ASKS, SAYS])
    assert tokens.ids[0][: len(asked)].tolist() == asked
    assert smollm2.tokenizer.decode(tokens.labels[0]) == "Monday.<|im_end|>\n"


def test_a_chat_without_an_answer_is_learnt_whole(smollm2):
    tokens = tokenize(smollm2, [Example([ASKS]), Example([])])
    assert tokens.counted.tolist() == [len(ids_of(smollm2, [ASKS])) - 1, 0]


def test_an_empty_chat_has_no_token_and_needs_no_prompt(smollm2, tmp_path):
    chat = {"messages": [ASKS, SAYS]}
    pool = read_pool(write_rows(tmp_path / "p.jsonl", [chat, {"messages": []}]))
    assert pool.first_without_prompt() is None
    counted = tokenize(smollm2, pool.rows, positions="prompt").counted
    assert counted[0] > 0 and counted[1] == 0
    pool = read_pool(write_rows(tmp_path / "q.jsonl", [chat, {"messages": [ASKS]}]))
    assert pool.first_without_prompt() == 1
    row = {"prompt": None, "completion": [ASKS, SAYS]}
    assert read_pool(write_rows(tmp_path / "r.jsonl", [row])).rows == [Example([ASKS, SAYS], [])]


def test_a_completion_may_go_on_from_an_answer():
    row = Example([{"role": "user", "content": "or"}], [{"role": "assistant", "content": "to be"}])
    model = language_model(template=WORDS)
    assert written(model, row, "row 0").text == "to be or "
    assert shown(model, tokenize(model, [row]), 0) == "to be⟦or⟧"


MARKED = CHATML.replace(
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}",
    "{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}"
    "{{ '<|im_end|>\n' }}",
)
# the last answer gets an empty thought, as Qwen 3 has it
THINKS = CHATML.replace(
    "m['content'] + '<|im_end|>",
    "('<think>\n</think>' if m['role'] == 'assistant' and loop.last else '') "
    "+ m['content'] + '<|im_end|>",
)
TURNS = [ASKS, SAYS, ASKS, SAYS]


@pytest.mark.parametrize(
    ("template", "learnt"),
    [
        (CHATML, ["Monday.<|im_end|>\n", "Monday.<|im_end|>\n"]),
        (MARKED, ["Monday.", "Monday."]),
        (THINKS, ["Monday.<|im_end|>\n", "<think>\n</think>Monday.<|im_end|>\n"]),
    ],
)
def test_answers_are_located_with_marks_and_without(model, template, learnt):
    text = marked(model(template), Example(TURNS))
    parts = text.split("⟦")
    assert [part.split("⟧")[0] for part in parts[1:]] == learnt
    assert "".join(parts).replace("⟧", "") == written(model(template), Example(TURNS), "").text


@pytest.mark.parametrize("row", [Example([SAYS], [ASKS]), Example([ASKS, SAYS])])
@pytest.mark.parametrize(
    "template",
    [
        "{{ 'x y z' }}",  # says nothing of the chat
        CHATML.replace("m['content'] +", "m['content'].split('.')[-1] +"),  # drops the answer
    ],
)
def test_a_template_that_leaves_out_what_is_learnt_is_refused(model, template, row):
    with pytest.raises(ValueError, match=r"row 0: the chat template of .* leaves out .*'Monday"):
        tokenize(model(template), [row])


def test_a_template_that_wants_parts_gets_them(model):
    wants = (
        "{% for m in messages %}{{ m['role'] + ':' }}{% for p in m['content'] %}"
        "{{ p['text'] }}{% endfor %}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    assert marked(model(wants), Example([ASKS, SAYS])) == (
        "user:Which day is it?\nassistant:⟦Monday.\n<|im_end|>⟧"  # the end, as nothing closes it
    )


def test_a_template_that_writes_prompts_otherwise_is_refused():
    moves = "{% for m in messages %}{{ m['content'] if loop.last else 'no' }} {% endfor %}"
    with pytest.raises(ValueError, match=r"^row 0: the chat template of tiny writes the prompt"):
        tokenize(language_model(template=moves), [Example([SAYS], [ASKS])])


def test_the_template_is_told_of_tools_and_options(model):
    template = "{{ tools | tojson if tools else '' }}{{ mood }}" + CHATML
    row = Example([ASKS, SAYS], tools=[{"name": "clock"}], options={"mood": "glad"})
    text = written(model(template), row, "row 0").text
    assert text.startswith('[{"name": "clock"}]glad<|im_start|>user')


@pytest.mark.parametrize("adds_bos", [True, False])
def test_a_chat_has_the_special_tokens_of_its_template_alone(adds_bos):
    chat = [{"role": "user", "content": "to be"}]
    for begins in ("[BOS] ", ""):
        model = language_model(adds_bos, begins + WORDS)
        model.tokenizer.add_special_tokens({"bos_token": "[BOS]"})
        to_be = model.tokenizer("to be", add_special_tokens=False)["input_ids"]
        bos = [1] * bool(begins)
        rows = [Example(chat), "to be", Example(chat, chat), Example(" be", "to")]
        got = tokenize(model, rows)
        text = [1] * adds_bos + to_be
        expected = [[*bos, *to_be], text, [*bos, *to_be, *to_be], text]
        assert [ids.tolist() for ids in got.ids] == expected
        counts = [len(bos) + 1, adds_bos + 1, 2, 1]
        assert got.counted.tolist() == counts


def test_a_model_or_template_that_cannot_is_refused_by_row():
    rows = ["to be", Example([ASKS])]
    with pytest.raises(ValueError, match=r"^row 1 is a chat, and tiny has no chat template: name"):
        tokenize(language_model(), rows)
    picky = language_model(template="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ValueError, match=r"^row 1: tiny: .*roles must alternate.*remove the row$"):
        tokenize(picky, rows)


ROWS = [
    {"messages": [ASKS, SAYS], "id": 1},
    {"prompt": [ASKS], "completion": [SAYS], "id": 2},
    {"dialogue": [SAYS | {"name": "x"}], "id": 3},
]
CHATS = [Example([ASKS, SAYS]), Example([SAYS], [ASKS]), Example([SAYS | {"name": "x"}])]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize(("row", "chat"), zip(ROWS, CHATS, strict=True))
def test_files_hold_chats_where_others_hold_strings(tmp_path, row, chat, suffix):
    pool = tmp_path / f"pool{suffix}"
    if suffix == ".jsonl":
        write_rows(pool, [row])
    else:
        pq.write_table(pa.Table.from_pylist([row]), pool)
    column = "dialogue" if "dialogue" in row else None
    assert read_pool(pool, Columns(messages=column)).rows == [chat]


def test_fields_that_other_messages_have_are_not_null_in_parquet(tmp_path):
    pool = tmp_path / "pool.parquet"
    pq.write_table(pa.Table.from_pylist([{"messages": [ASKS, SAYS | {"name": "x"}]}]), pool)
    assert read_pool(pool).rows == [Example([ASKS, SAYS | {"name": "x"}])]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": [3]}, "without a string 'role'"),
        ({"messages": [{"from": "narrator", "value": "hi"}]}, "a message from 'narrator'"),
        ({"messages": [{"role": "user", "content": None}]}, "without a string 'content'"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "half a character"),
        ({"messages": "hello", "id": None}, "a string, not a list of messages"),
        ({"prompt": "a", "completion": [SAYS]}, "'completion' holds a list, not a string"),
        ({"text": 5}, "'text' holds an int, not a string"),
    ],
)
def test_a_broken_chat_is_named(tmp_path, row, said):
    pool = write_rows(tmp_path / "pool.jsonl", [row])
    with pytest.raises(ValueError, match=rf"pool.jsonl, line 1: column .*{said}.*row"):
        read_pool(pool)


def test_python_takes_chats(smollm2):
    rows = [{"messages": [ASKS, SAYS]}, {"prompt": [ASKS], "completion": [SAYS]}, "A plain text."]
    emb = fj.embed(rows, smollm2)
    answer = len(smollm2.tokenizer("Monday.<|im_end|>\n")["input_ids"])
    assert emb.lengths[0] == emb.lengths[1] == answer
    with pytest.raises(ValueError, match=r"texts: row 1 has no column 'text'.* it has 'message'"):
        fj.embed(["a text", {"message": []}], smollm2)


def test_the_command_chooses_chats_and_keeps_their_columns(run, out, llama, tmp_path):
    folder = shutil.copytree(llama, tmp_path / "chatty")
    (folder / "chat_template.jinja").write_text(WORDS)
    said = texts()
    rows = [
        {
            "messages": [
                {"role": "user", "content": text[:3]},
                {"role": "assistant", "content": text},
            ]
        }
        for text in said
    ]
    pool = write_rows(tmp_path / "pool.jsonl", rows)
    code, messages = run(pool, "-o", out, "--model", folder, "--n-samples", N)
    assert code == 0, messages
    for row in read_rows(out):
        assert {"messages": row["messages"]} in rows and row["fisher_gain"] >= 0
    (first, *_) = read_rows(out)
    assert "\n".join(f"{m['role']}: {m['content']}" for m in first["messages"]) in page_of(out)
    pairs = [{"prompt": f"{text[:3]} ", "completion": f"{text} "} for text in said]
    plain = write_rows(tmp_path / "plain.jsonl", pairs)
    code, messages = run(plain, "-o", tmp_path / "b.jsonl", "--model", folder, "--n-samples", N)
    assert code == 0, messages
    gains = [[row["fisher_gain"] for row in read_rows(p)] for p in (out, tmp_path / "b.jsonl")]
    np.testing.assert_array_equal(*gains)


def test_copies_and_questions_are_of_what_is_said():
    """Not of the template's words, nor, for near copies, of a system message that rows share."""
    told = {
        "role": "system",
        "content": "You are a helpful assistant. Think step by step before every answer, then be "
        "brief, and never say more than what was asked of you by whoever is asking.",
    }
    first, second = (
        Example(
            [{"role": "assistant", "content": said}], [told, {"role": "user", "content": asked}]
        )
        for asked, said in (("What is 7 times 8?", "56"), ("Name a red fruit.", "Apple"))
    )
    again = Example([*first.prompt, *first.completion])
    assert deduplicate_near([row.text() for row in (first, second)]).tolist() == [0]
    plain = first._replace(prompt=first.prompt[1:])
    assert deduplicate_exact([first, plain]).tolist() == [0, 1]
    assert deduplicate_exact([first, second, first]).tolist() == [0, 1]
    assert deduplicate_near([first, second, again]).tolist() == [0, 1]
    assert ask_questions([first], "Good? {text}") == ["Good? What is 7 times 8?\n56"]


def test_the_command_names_what_a_chat_lacks(refused, out, llama, tmp_path):
    pool = write_rows(tmp_path / "pool.jsonl", [{"messages": [ASKS]}])
    refused([pool, "-o", out, "--model", llama, "--n-samples", 1], [pool, "line 1", "template"])
    pool.write_text(json.dumps({"messages": [{"role": "user"}]}) + "\n")
    refused([pool, "-o", out, "--model", llama, "--n-samples", 1], [pool, "line 1", "'content'"])


def test_ifd_is_of_the_answers(run, out, llama, tmp_path):
    folder = shutil.copytree(llama, tmp_path / "chatty")
    (folder / "chat_template.jinja").write_text(WORDS)
    rows = [
        {
            "prompt": [{"role": "user", "content": text[:3]}],
            "completion": [SAYS | {"content": text}],
        }
        for text in texts()
    ]
    pool = write_rows(tmp_path / "pool.jsonl", rows)
    argv = [pool, "-o", out, "--model", folder, "--n-samples", N, "--selector", "ifd"]
    code, messages = run(*argv)
    assert code == 0, messages
    strings = [
        {
            "prompt": r["prompt"][0]["content"] + " ",
            "completion": r["completion"][0]["content"] + " ",
        }
        for r in rows
    ]
    write_rows(pool, strings)
    plain = out.with_name("plain.jsonl")
    code, messages = run(pool, "-o", plain, *argv[3:])
    assert code == 0, messages
    orders = [[row["completion"] for row in read_rows(path)] for path in (out, plain)]
    assert [said[0]["content"] + " " for said in orders[0]] == orders[1]
