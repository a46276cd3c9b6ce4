"""Rows of messages: written by the model's chat template, as TRL reads them."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fisher_jax as fj
from fisher_jax.data.duplicates import deduplicate_exact, deduplicate_near, text_of
from fisher_jax.data.pool_file import read_pool
from fisher_jax.data.rows import Chat, PromptCompletion
from fisher_jax.models.chat import written
from fisher_jax.models.embed import tokenize
from fisher_jax.scoring.quality import ask_questions
from tests.helpers.cli import N, page_of, read_rows, texts, write_rows
from tests.helpers.word_model import language_model

ASKS = {"role": "user", "content": "Which day is it?"}
SAYS = {"role": "assistant", "content": "Monday."}
TELLS = {"role": "system", "content": "Be brief."}
WORDS = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
WHERE = "row {}".format


def ids_of(model, messages, **options):
    return model.tokenizer.apply_chat_template(messages, return_dict=False, **options)


def test_messages_are_the_templates_tokens_and_all_count(smollm2):
    chat = [TELLS, ASKS, SAYS, ASKS]
    (row,) = written(smollm2, [Chat(chat)], WHERE)
    tokens = tokenize(smollm2, [row])
    assert tokens.ids[0].tolist() == ids_of(smollm2, chat)
    assert tokens.counted.tolist() == [len(tokens.ids[0]) - 1]


def test_of_a_prompt_and_a_completion_the_answer_counts(smollm2):
    (row,) = written(smollm2, [Chat([TELLS, ASKS], [SAYS])], WHERE)
    tokens = tokenize(smollm2, [row])
    asked = ids_of(smollm2, [TELLS, ASKS], add_generation_prompt=True)
    assert tokens.ids[0].tolist() == ids_of(smollm2, [TELLS, ASKS, SAYS])
    assert tokens.ids[0][: len(asked)].tolist() == asked and tokens.first.tolist() == [len(asked)]
    assert smollm2.tokenizer.decode(tokens.ids[0][len(asked) :]) == "Monday.<|im_end|>\n"


def test_a_completion_may_go_on_from_an_answer():
    chat = Chat([{"role": "assistant", "content": "to be"}], [{"role": "user", "content": "or"}])
    assert written(language_model(template=WORDS), [chat], WHERE) == [("to be ", "or ")]


def test_a_template_that_writes_prompts_otherwise_is_refused():
    moves = "{% for m in messages %}{{ m['content'] if loop.last else 'no' }} {% endfor %}"
    with pytest.raises(ValueError, match=r"^row 0: the chat template of tiny writes the prompt"):
        written(language_model(template=moves), [Chat([ASKS], [SAYS])], WHERE)


@pytest.mark.parametrize("adds_bos", [True, False])
def test_a_chat_has_the_special_tokens_of_its_template_alone(adds_bos):
    chat = [{"role": "user", "content": "to be"}]
    for begins in ("[BOS] ", ""):
        model = language_model(adds_bos, begins + WORDS)
        model.tokenizer.add_special_tokens({"bos_token": "[BOS]"})
        to_be = model.tokenizer("to be", add_special_tokens=False)["input_ids"]
        bos = [1] * bool(begins)
        got = tokenize(model, [Chat(chat), "to be", Chat(chat, chat), PromptCompletion("to", "be")])
        text = [1] * adds_bos + to_be
        expected = [[*bos, *to_be], text, [*bos, *to_be, *to_be], text]
        assert [ids.tolist() for ids in got.ids] == expected
        assert got.first.tolist() == [1, 1, len(bos) + 2, adds_bos + 1]


def test_other_rows_stay_as_they_are():
    rows = ["to be", PromptCompletion("to", "be")]
    assert written(language_model(), rows, WHERE) == rows


def test_a_model_or_template_that_cannot_is_refused_by_row():
    rows = ["to be", Chat([ASKS])]
    with pytest.raises(ValueError, match=r"^row 1 is a chat, and tiny has no chat template: name"):
        written(language_model(), rows, WHERE)
    picky = language_model(template="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ValueError, match=r"^row 1: tiny: .*roles must alternate.*remove the row$"):
        written(picky, rows, WHERE)


ROWS = [
    {"messages": [ASKS, SAYS], "id": 1},
    {"prompt": [ASKS], "completion": [SAYS], "id": 2},
    {"dialogue": [SAYS | {"name": "x"}], "id": 3},
]
CHATS = [Chat([ASKS, SAYS]), Chat([ASKS], [SAYS]), Chat([SAYS | {"name": "x"}])]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize(("row", "chat"), zip(ROWS, CHATS, strict=True))
def test_files_hold_chats_where_others_hold_strings(tmp_path, row, chat, suffix):
    pool = tmp_path / f"pool{suffix}"
    if suffix == ".jsonl":
        write_rows(pool, [row])
    else:
        pq.write_table(pa.Table.from_pylist([row]), pool)
    column = "dialogue" if "dialogue" in row else None
    (got,) = read_pool(pool, column).rows
    assert isinstance(got, Chat) and [[*part] for part in got] == [[*part] for part in chat]


def test_fields_that_other_messages_have_are_not_null_in_parquet(tmp_path):
    pool = tmp_path / "pool.parquet"
    pq.write_table(pa.Table.from_pylist([{"messages": [ASKS, SAYS | {"name": "x"}]}]), pool)
    assert read_pool(pool).rows == [Chat([ASKS, SAYS | {"name": "x"}])]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": []}, "'messages' holds no message"),
        ({"messages": ["hello"]}, "without a string 'role'"),
        ({"messages": [{"from": "human", "value": "hi"}]}, "without a string 'role': a chat is"),
        ({"messages": [{"role": "user", "content": None}]}, "without a string 'content'"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "half a character"),
        ({"messages": "hello", "id": None}, None),
        ({"prompt": "a", "completion": [SAYS]}, "'completion' holds a list, not a string"),
    ],
)
def test_a_broken_chat_is_named(tmp_path, row, said):
    pool = write_rows(tmp_path / "pool.jsonl", [row])
    if said is None:  # a string is a text
        assert read_pool(pool).rows == ["hello"]
        return
    with pytest.raises(ValueError, match=rf"pool.jsonl, line 1: column .*{said}.*row"):
        read_pool(pool)


def test_python_takes_chats(smollm2):
    rows = [{"messages": [ASKS, SAYS]}, {"prompt": [ASKS], "completion": [SAYS]}, "A plain text."]
    emb = fj.embed(rows, smollm2)
    answer = len(smollm2.tokenizer("Monday.<|im_end|>\n")["input_ids"])
    assert emb.lengths[1] == answer < emb.lengths[0] == len(ids_of(smollm2, [ASKS, SAYS])) - 1
    with pytest.raises(ValueError, match="row 1 is neither a string nor a mapping with text"):
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
    plain = write_rows(tmp_path / "plain.jsonl", [{"text": f"{text[:3]} {text} "} for text in said])
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
        Chat([told, {"role": "user", "content": asked}], [{"role": "assistant", "content": said}])
        for asked, said in (("What is 7 times 8?", "56"), ("Name a red fruit.", "Apple"))
    )
    again = Chat([*first.prompt, *first.completion])
    assert deduplicate_near([text_of(row) for row in (first, second)]).tolist() == [0]
    plain = Chat(first.prompt[1:], first.completion)
    assert deduplicate_exact([first, plain]).tolist() == [0, 1]
    assert deduplicate_exact([first, second, again]).tolist() == [0, 1]
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
