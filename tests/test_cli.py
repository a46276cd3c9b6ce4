"""The command `fisher-select`, run in this process except where signals and start-up count."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import fisher_jax as fj
from fisher_jax.baselines import SELECTORS
from fisher_jax.budget import Budget
from fisher_jax.cli import main
from fisher_jax.randomized import draw_fisher
from fisher_jax.report import FILES

# one shape for most runs, texts and ready embeddings alike: each other shape is a compilation
N, M, D, K = 8, 4, 8, 3
GOOD = b'{"text": "a b c d e"}\n'
EARLIER = b"an earlier result\n"


def write_embeddings(path, lengths=(M,) * N, dim=D, seed=0):
    """Ready embeddings of rows of these lengths, as a file and as arrays."""
    tokens = np.random.default_rng(seed).standard_normal((sum(lengths), dim), dtype=np.float32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    save_file({"tokens": tokens, "offsets": offsets}, path)
    return fj.TokenEmbeddings(tokens, offsets)


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def texts(seed=0, n=N, words=M + 1):
    letters = np.random.default_rng(seed).choice(list("abcdefghijklmnopqrstuvwxyz"), (n, words))
    return [" ".join(row) for row in letters]


def read_rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ranking_of(out):
    return pq.read_table(out.with_name(out.name + ".report") / "ranking.parquet").to_pydict()


def manifest_of(out):
    path = out.with_name(out.name + ".report") / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8"))


def page_of(out):
    return (out.with_name(out.name + ".report") / "report.html").read_text(encoding="utf-8")


def snapshot(folder):
    """Everything below a folder, hidden and temporary files too."""
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def leave_earlier_results(out):
    report = out.with_name(out.name + ".report")
    report.mkdir()
    for path in (out, *(report / name for name in FILES)):
        path.write_bytes(EARLIER)


@pytest.fixture
def run(capsys):
    """Run the command: its exit code and stderr. Nothing ever goes to stdout."""

    def run(*argv):
        code = main([str(word) for word in argv])
        printed, messages = capsys.readouterr()
        assert printed == ""
        return code, messages

    return run


@pytest.fixture
def refused(run, tmp_path):
    """Run it on bad input: code 2, one line with these words, and every file as it was."""

    def refused(argv, words):
        before = snapshot(tmp_path)
        code, messages = run(*argv)
        assert code == 2
        assert messages.startswith("fisher-select: error: ")
        assert messages.endswith("\n") and messages.count("\n") == 1 and "\r" not in messages
        for word in words:
            assert str(word) in messages
        assert snapshot(tmp_path) == before

    return refused


@pytest.fixture
def out(tmp_path):
    """Where chosen rows go to, beside other people's files."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "chosen.jsonl"


@pytest.fixture
def ready(tmp_path):
    """Ready embeddings as arguments."""
    write_embeddings(tmp_path / "emb.safetensors")
    return ["--embeddings", tmp_path / "emb.safetensors"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """The folder of a one-layer Llama with a letter a token and random weights."""
    folder = tmp_path_factory.mktemp("llama")
    vocab = {"<unk>": 0} | {letter: i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz", 1)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    fast.save_pretrained(folder)
    config = {
        "model_type": "llama",
        "vocab_size": len(vocab),
        "hidden_size": D,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 2 * D,
        "max_position_embeddings": 32,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
    }
    (folder / "config.json").write_text(json.dumps(config))
    layer = "model.layers.0."
    shapes = {
        "model.embed_tokens": (len(vocab), D),
        "model.norm": (D,),
        f"{layer}input_layernorm": (D,),
        f"{layer}post_attention_layernorm": (D,),
        f"{layer}self_attn.q_proj": (D, D),
        f"{layer}self_attn.k_proj": (D // 2, D),
        f"{layer}self_attn.v_proj": (D // 2, D),
        f"{layer}self_attn.o_proj": (D, D),
        f"{layer}mlp.gate_proj": (2 * D, D),
        f"{layer}mlp.up_proj": (2 * D, D),
        f"{layer}mlp.down_proj": (D, 2 * D),
    }
    rng = np.random.default_rng(0)
    weights = {
        f"{name}.weight": rng.standard_normal(shape, dtype=np.float32)
        for name, shape in shapes.items()
    }
    save_file(weights, folder / "model.safetensors")
    return folder


# What is refused: pools


def parquet(**columns):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def not_utf8():
    offsets, letters = pa.py_buffer(np.array([0, 1, 3], np.int32)), pa.py_buffer(b"a\xff\xfe")
    return parquet(text=pa.Array.from_buffers(pa.string(), 2, [None, offsets, letters]))


POOLS = {
    "empty": ("p.jsonl", b"", ["is empty", "at least one row"]),
    "only line ends": ("p.txt", b"\r\n\n\n", ["is empty", "at least one row"]),
    "broken JSON": (
        "p.jsonl",
        GOOD * 6 + b'{"text": "a"\n' + GOOD,
        ["line 7", "not JSON", "mend or remove"],
    ),
    "blank line": ("p.jsonl", GOOD * 2 + b"\n" + GOOD, ["line 3", "not JSON", "remove the line"]),
    "deep nesting": ("p.jsonl", GOOD + b"[" * 100_000, ["line 2", "not JSON"]),
    "no object": ("p.jsonl", GOOD + b'["a b"]\n', ["line 2", "list, not a JSON object"]),
    "no text at first": (
        "p.jsonl",
        b'{"body": "a b"}\n',
        ["line 1", "no column 'text'", "'body'", "--text-column"],
    ),
    "no text later": (
        "p.jsonl",
        GOOD * 2 + b'{"body": "a b"}\n',
        ["line 3", "no column 'text'", "'body'", "--text-column"],
    ),
    "no completion": (
        "p.jsonl",
        b'{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n',
        ["line 2", "no column 'completion'"],
    ),
    "number": ("p.jsonl", GOOD + b'{"text": 3}\n', ["line 2", "'text'", "int", "mend or remove"]),
    "null": ("p.jsonl", GOOD + b'{"text": null}\n', ["line 2", "'text'", "null"]),
    "NaN": ("p.jsonl", GOOD + b'{"text": "a b", "x": NaN}\n', ["line 2", "NaN", "mend or remove"]),
    "half a character": (
        "p.jsonl",
        GOOD + b'{"text": "a \\ud800"}\n',
        ["line 2", "lone surrogate", "mend or remove"],
    ),
    "rank column": (
        "p.jsonl",
        GOOD + b'{"text": "a b", "fisher_rank": 1}\n',
        ["line 2", "already has a column fisher_rank", "rename it"],
    ),
    "gain column": (
        "p.parquet",
        parquet(text=["a b"], fisher_gain=[1.0]),
        ["already has a column fisher_gain", "rename it"],
    ),
    "binary": ("p.txt", b"PK\x03\x04\n\xfe\xff\xfa", ["line 2", "not UTF-8", "binary"]),
    "zero bytes": ("p.jsonl", b"\x00" * 64, ["line 1", "zero byte", "binary"]),
    "CSV": ("p.csv", b"text\na b\n", ["must end in .jsonl", ".parquet", ".txt"]),
    "not Parquet": ("p.parquet", GOOD, ["not readable as Parquet", "write it anew"]),
    "no rows": ("p.parquet", parquet(text=pa.array([], pa.string())), ["is empty"]),
    "Parquet null": ("p.parquet", parquet(text=["a b", None]), ["row 1", "null"]),
    "Parquet column": ("p.parquet", parquet(body=["a b"]), ["no column 'text'", "--text-column"]),
    "Parquet not UTF-8": ("p.parquet", not_utf8(), ["not readable as Parquet", "UTF8"]),
}


@pytest.mark.parametrize("name", POOLS)
def test_a_pool_that_cannot_be_read_is_refused(name, refused, out, tmp_path):
    filename, content, words = POOLS[name]
    pool = tmp_path / filename
    pool.write_bytes(content)
    leave_earlier_results(out)
    argv = [pool, "-o", out, "--model", "none", "--n-samples", "1", "--overwrite"]
    refused(argv, [pool, *words])


def test_a_missing_pool_and_a_missing_column_are_refused(refused, out, tmp_path):
    rest = ["-o", out, "--model", "none", "--n-samples", "1"]
    refused([tmp_path / "p.jsonl", *rest], [tmp_path / "p.jsonl", "no file", "name a .jsonl"])
    pool = tmp_path / "p.jsonl"
    pool.write_bytes(GOOD)
    words = [f"{pool}, line 1", "no column 'nope'", "it has 'text'", "--text-column"]
    refused([pool, *rest, "--text-column", "nope"], words)
    pool = tmp_path / "p.txt"
    pool.write_bytes(b"a b\n")
    refused([pool, *rest, "--text-column", "text"], [pool, "no columns", "leave --text-column out"])


# JSONL that Parquet has no form for, and the other way round: told before any work is done
MISFITS = {
    "two types": ("p.jsonl", [{"x": 1}, {"x": "a"}], ".jsonl"),
    "integer out of range": ("p.jsonl", [{"x": 1}, {"x": 10**30}], ".jsonl"),
    "empty object": ("p.jsonl", [{"x": {}}, {"x": {}}], ".jsonl"),
    "lone surrogate": ("p.jsonl", [{"x": "a"}, {"x": "\ud800"}], ".jsonl"),
    "bytes": ("p.parquet", {"x": [b"a", b"\xff"]}, ".parquet"),
    "NaN": ("p.parquet", {"x": [0.5, float("nan")]}, ".parquet"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_columns_that_the_output_cannot_hold_are_refused(name, refused, out, tmp_path):
    filename, content, remedy = MISFITS[name]
    pool, emb = tmp_path / filename, tmp_path / "emb.safetensors"
    if pool.suffix == ".jsonl":
        write_rows(pool, content)
        out = out.with_suffix(".parquet")
    else:
        pool.write_bytes(parquet(**content))
    write_embeddings(emb, lengths=(M, M))
    leave_earlier_results(out)
    argv = [pool, "-o", out, "--embeddings", emb, "--n-samples", "1", "--overwrite"]
    refused(argv, [out, pool, "can't hold", f"write a {remedy} instead"])


# What is refused: arguments

ARGUMENTS = {
    "K of 0": (["--n-samples", "0"], ["--n-samples must be at least 1", "got 0"]),
    "negative K": (["--n-samples", "-5"], ["--n-samples must be at least 1", "got -5"]),
    "K above N": (["--n-samples", N + 1], ["n_samples", f"from 1 to {N}", f"got {N + 1}"]),
    "K of half a row": (["--n-samples", "2.5"], ["--n-samples", "invalid int", "2.5", "--help"]),
    "fraction 0": (["--fraction", "0"], ["--fraction must be above 0 and at most 1", "got 0"]),
    "fraction 1.5": (["--fraction", "1.5"], ["--fraction must be above 0 and at most 1", "1.5"]),
    "fraction nan": (["--fraction", "nan"], ["--fraction must be above 0 and at most 1", "nan"]),
    "no tokens": (["--token-budget", "0"], ["--token-budget must be at least 1", "got 0"]),
    "too few tokens": (
        ["--token-budget", M - 1],
        [f"--token-budget {M - 1} buys nothing", f"has {M} tokens"],
    ),
    "two budgets": (
        ["--n-samples", "1", "--fraction", "0.5"],
        ["exactly one budget", "got --n-samples and --fraction"],
    ),
    "no budget": ([], ["exactly one budget", "got none"]),
    "unknown option": (["--n-samples", "1", "--nope"], ["--nope", "--help"]),
    "abbreviation": (["--n-samp", "1"], ["--n-samp", "--help"]),
    "unknown choice": (["--n-samples", "1", "--on-empty", "keep"], ["--on-empty", "keep", "skip"]),
    "ridge 0": (["--n-samples", "1", "--ridge", "0"], ["--ridge must be a positive number"]),
    "ridge inf": (["--n-samples", "1", "--ridge", "inf"], ["--ridge must be a positive number"]),
    "batch 0": (["--n-samples", "1", "--batch-tokens", "0"], ["--batch-tokens", "at least 1"]),
    "seed -1": (["--n-samples", "1", "--seed", "-1"], ["--seed", "0 or more"]),
    "two sources": (["--n-samples", "1", "--model", "none"], ["either --model", "--embeddings"]),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_wrong_arguments_are_refused(name, refused, ready, out):
    argv, words = ARGUMENTS[name]
    leave_earlier_results(out)
    refused([*ready, "-o", out, "--overwrite", *argv], words)


def test_no_output_no_pool_and_no_model_are_refused(refused, ready, out, tmp_path):
    pool = write_rows(tmp_path / "p.jsonl", [{"text": "a b"}])
    refused([*ready, "--n-samples", "1"], ["-o/--out", "--help"])
    refused(["-o", out, "--model", "none", "--n-samples", "1"], ["give a POOL", ".jsonl"])
    refused([pool, "-o", out, "--n-samples", "1"], ["give either --model", "--embeddings"])


# What is refused: outputs


def test_an_earlier_output_is_replaced_only_when_asked(run, refused, ready, out):
    argv = [*ready, "-o", out, "--n-samples", K]
    report = out.with_name(out.name + ".report")
    out.write_bytes(EARLIER)
    refused(argv, [out, "exists", "--overwrite"])
    out.unlink()
    report.mkdir()
    (report / "manifest.json").write_bytes(EARLIER)
    refused(argv, [report / "manifest.json", "exists", "--overwrite"])
    (report / "mine.txt").write_bytes(EARLIER)
    leftovers = {path.name for path in report.iterdir()} - set(FILES)
    assert run(*argv, "--overwrite")[0] == 0
    assert len(read_rows(out)) == K
    assert {path.name for path in report.iterdir()} == {*FILES, *leftovers} == {*FILES, "mine.txt"}
    assert manifest_of(out)["result"]["selected_rows"] == K


def test_an_output_that_cannot_be_is_refused(refused, ready, out, tmp_path):
    budget = ["--n-samples", "1", "--overwrite"]
    words = ["OUT must end in .jsonl or .parquet"]
    refused([*ready, "-o", out.with_suffix(".csv"), *budget], words)
    missing = tmp_path / "nowhere" / "chosen.jsonl"
    refused([*ready, "-o", missing, *budget], [missing.parent, "does not exist", "make it first"])
    out.mkdir()
    refused([*ready, "-o", out, *budget], [out, "is a folder", "name another output"])
    out.rmdir()
    report = out.with_name(out.name + ".report")
    report.write_bytes(EARLIER)
    refused([*ready, "-o", out, *budget], [report, "not a folder", "name another"])
    report.unlink()
    out.write_bytes(EARLIER)
    (report / "report.html").mkdir(parents=True)
    refused([*ready, "-o", out, *budget], [report / "report.html", "is a folder"])


def test_no_input_is_ever_replaced(refused, tmp_path):
    pool, emb = tmp_path / "p.jsonl", tmp_path / "emb.safetensors"
    write_rows(pool, [{"x": i} for i in range(N)])
    write_embeddings(emb)
    rest = ["--embeddings", emb, "--n-samples", "1", "--overwrite"]
    refused([pool, "-o", pool, *rest], [pool, "is the pool itself", "name another file"])
    link, hard = tmp_path / "link.jsonl", tmp_path / "hard.jsonl"
    link.symlink_to(pool)
    hard.hardlink_to(pool)
    for other in (link, hard):
        refused([pool, "-o", other, *rest], [other, "is the pool itself"])
    pool = tmp_path / "ranking.parquet"
    pq.write_table(pa.table({"x": range(N)}), pool)
    argv = [pool, "-o", tmp_path / "chosen.parquet", *rest, "--report-dir", tmp_path]
    refused(argv, ["the report would replace", pool, "--report-dir"])
    argv = ["-o", pool, *rest, "--report-dir", tmp_path]
    refused(argv, ["the report would replace", pool, "--report-dir"])


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder no one can write to")
def test_a_place_that_cannot_be_written_to_is_refused(refused, ready, out):
    budget = ["--n-samples", "1"]
    words = ["can't write into /proc", "choose another place"]
    refused([*ready, "-o", "/proc/chosen.jsonl", *budget], words)
    refused([*ready, "-o", out, "--report-dir", "/proc/new/report", *budget], words)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(refused, ready, out):
    out.parent.chmod(0o555)
    try:
        refused([*ready, "-o", out, "--n-samples", "1"], ["can't write into", out.parent])
    finally:
        out.parent.chmod(0o755)


# What is refused: embeddings


def test_embeddings_that_cannot_be_used_are_refused(refused, out, tmp_path):
    emb = tmp_path / "emb.safetensors"
    argv = ["-o", out, "--embeddings", emb, "--n-samples", "1"]
    refused(argv, [emb, "no file", ".safetensors"])
    emb.write_bytes(b"not one")
    refused(argv, [emb, "not readable as safetensors", "save_file"])
    tokens, offsets = np.ones((4, 2), np.float32), np.array([0, 1, 4])
    save_file({"embeddings": tokens, "offsets": offsets}, emb)
    refused(argv, [emb, "must hold tokens and offsets", "it holds embeddings, offsets"])
    save_file({"tokens": tokens, "offsets": np.array([0, 4, 4])}, emb)
    refused(argv, [emb, "example 1 has no tokens", "leave them out"])
    save_file({"tokens": tokens, "offsets": np.array([0, 1, 3])}, emb)
    refused(argv, [emb, "offsets must run from 0 to the 4 rows of tokens"])
    tokens[2, 1] = np.inf
    save_file({"tokens": tokens, "offsets": offsets}, emb)
    refused(argv, [emb, "example 1 has a non-finite number", "drop the example or mend"])


def test_embeddings_of_another_pool_are_refused(refused, ready, out, tmp_path):
    pool = write_rows(tmp_path / "p.jsonl", [{"x": i} for i in range(N + 1)])
    words = [f"{N} examples", f"{pool} has {N + 1} rows", "the same rows in the same order"]
    refused([pool, "-o", out, *ready, "--n-samples", "1"], words)


# What is refused: models


def copy(folder, to):
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_models_that_cannot_be_had_are_refused(refused, llama, out, tmp_path):
    pool = write_rows(tmp_path / "p.jsonl", [{"text": "a b"}])
    argv = [pool, "-o", out, "--n-samples", "1", "--model"]
    refused([*argv, "smollm3"], ["no model 'smollm3'", "hub name such as"])
    refused([*argv, tmp_path / "no.gguf"], ["no model file", tmp_path / "no.gguf"])
    folder = copy(llama, tmp_path / "llama")
    (folder / "config.json").unlink()
    refused([*argv, folder], [folder, "no config.json", "save_pretrained"])


@pytest.mark.parametrize("change", ["missing", "extra", "wrong shape"])
def test_weights_that_do_not_match_are_refused(change, refused, llama, out, tmp_path):
    pool = write_rows(tmp_path / "p.jsonl", [{"text": "a b"}])
    folder = copy(llama, tmp_path / "llama")
    weights = load_file(folder / "model.safetensors")
    if change == "missing":
        del weights["model.norm.weight"]
        words = ["lacks tensor norm.weight"]
    elif change == "extra":
        weights["model.layers.0.self_attn.q_norm.weight"] = np.ones(4, np.float32)
        words = ["unknown tensor layers.0.self_attn.q_norm.weight"]
    else:
        weights["model.norm.weight"] = np.ones(D + 1, np.float32)
        words = ["tensor norm.weight has shape (9,)", "asks for (8,)"]
    save_file(weights, folder / "model.safetensors")
    refused([pool, "-o", out, "--n-samples", "1", "--model", folder], [folder, *words, "config"])


@pytest.mark.parametrize("cut", ["header", "tensors"])
def test_a_truncated_gguf_is_refused(cut, refused, out, tmp_path):
    pool = write_rows(tmp_path / "p.jsonl", [{"text": "a b"}])
    model = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(model, "llama")
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.zeros((8, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    argv = [pool, "-o", out, "--n-samples", "1", "--model", model]
    refused(argv, [model, "no metadata"])  # whole, if not much of a model
    content = model.read_bytes()
    model.write_bytes(content[: 40 if cut == "header" else -100])
    refused(argv, [model, "not a whole GGUF", "download it anew"])


# Text through a model


def test_text_is_embedded_and_chosen_as_the_library_does(run, llama, out, tmp_path):
    rows = texts()
    pool = write_rows(tmp_path / "p.jsonl", [{"id": i, "text": row} for i, row in enumerate(rows)])
    code, messages = run(pool, "-o", out, "--model", llama, "--n-samples", K)
    assert code == 0
    assert f"{N} rows, {N * M} tokens to learn" in messages.replace("\r", "\n").splitlines()[0]
    expected = fj.select(fj.embed(rows, str(llama)), n_samples=K)
    chosen = read_rows(out)
    assert [row["id"] for row in chosen] == expected.ranking.tolist()
    assert [row["fisher_rank"] for row in chosen] == list(range(K))
    np.testing.assert_array_equal([row["fisher_gain"] for row in chosen], expected.gains)
    result = manifest_of(out)["result"]
    assert result["model"] == str(llama)
    assert (result["skipped_rows"], result["cut_rows"]) == (0, 0)
    assert manifest_of(out)["notes"] == []


def test_rows_with_nothing_to_predict_are_an_error_or_skipped(run, refused, llama, out, tmp_path):
    rows = texts()
    whole = write_rows(tmp_path / "whole.jsonl", [{"text": row} for row in rows])
    budget = ["--model", llama, "--n-samples", K]
    assert run(whole, "-o", out.with_name("whole.jsonl"), *budget)[0] == 0
    for at, nothing in ((2, ""), (2, "a"), (5, "   ")):
        rows.insert(at, nothing)
    pool = write_rows(tmp_path / "p.jsonl", [{"text": row} for row in rows])
    words = [pool, "3 row(s)", "line 3, line 4, line 6", "--on-empty skip"]
    refused([pool, "-o", out, *budget], words)

    assert run(pool, "-o", out, *budget, "--on-empty", "skip")[0] == 0
    kept = np.delete(np.arange(N + 3), [2, 3, 5])
    plain, skipping = ranking_of(out.with_name("whole.jsonl")), ranking_of(out)
    assert skipping["index"] == kept[plain["index"]].tolist() != plain["index"]
    assert [row["text"] for row in read_rows(out)] == [rows[i] for i in skipping["index"]]
    result = manifest_of(out)["result"]
    assert (result["rows"], result["skipped_rows"]) == (N + 3, 3)
    note = "3 rows with no token to predict were skipped."
    assert manifest_of(out)["notes"] == [note] and f"<li>{note}</li>" in page_of(out)


def test_long_rows_are_cut_and_counted(run, llama, out, tmp_path):
    short = texts()
    long = [row + " x y z" if i in (1, 6) else row for i, row in enumerate(short)]
    rankings = {}
    for name, rows in (("short", short), ("long", long)):
        pool = write_rows(tmp_path / f"{name}.jsonl", [{"text": row} for row in rows])
        target = out.with_name(f"{name}.jsonl")
        code, _ = run(pool, "-o", target, "--model", llama, "--n-samples", K, "--max-length", M + 1)
        assert code == 0
        rankings[name] = ranking_of(target)
    assert rankings["long"] == rankings["short"]
    chosen = [row["text"] for row in read_rows(out.with_name("long.jsonl"))]
    assert chosen == [long[i] for i in rankings["long"]["index"]]  # written whole
    target = out.with_name("long.jsonl")
    note = f"2 rows were longer than {M + 1} tokens and were cut."
    assert manifest_of(target)["result"]["cut_rows"] == 2
    assert manifest_of(target)["notes"] == [note] and f"<li>{note}</li>" in page_of(target)


@pytest.mark.parametrize("limit", [1, 33])
def test_lengths_that_the_model_cannot_take_are_refused(limit, refused, llama, out, tmp_path):
    pool = write_rows(tmp_path / "p.jsonl", [{"text": "a b"}])
    argv = [pool, "-o", out, "--model", llama, "--n-samples", "1", "--max-length", limit]
    refused(argv, ["max_length", "from 2 to 32", f"got {limit}"])


def test_only_completions_count(run, refused, llama, out, tmp_path):
    rows = [{"completion": text, "prompt": "q a"} for text in texts(words=M)]
    pool = write_rows(tmp_path / "p.jsonl", rows)
    argv = [pool, "-o", out, "--model", llama, "--n-samples", K]
    words = [pool, f"{N} row(s)", "line 1, line 2", "--on-empty skip"]
    refused([*argv, "--max-length", "2"], words)
    refused([*argv, "--max-length", "2", "--on-empty", "skip"], [pool, "larger --max-length"])
    assert run(*argv)[0] == 0
    assert ranking_of(out)["tokens"] == [M] * K
    expected = fj.select(fj.embed(rows, str(llama)), n_samples=K).ranking.tolist()
    assert ranking_of(out)["index"] == expected
    chosen = [{name: row[name] for name in ("completion", "prompt")} for row in read_rows(out)]
    assert chosen == [rows[i] for i in expected]


def test_prompts_can_be_selected_by_and_completions_are_paid(run, refused, llama, out, tmp_path):
    rows = [
        {"prompt": text, "completion": "x y z"[: 1 + 2 * (i % 3)]}
        for i, text in enumerate(texts(words=M))
    ]
    pool = write_rows(tmp_path / "p.jsonl", rows)
    argv = [pool, "-o", out, "--model", llama, "--positions", "prompt"]
    assert run(*argv, "--token-budget", 5)[0] == 0
    emb = fj.embed(rows, str(llama), positions="prompt")
    assert emb.lengths.tolist() == [M] * N  # the last prompt token predicts the completion's first
    costs = [1 + i % 3 for i in range(N)]
    expected = fj.select(emb, token_budget=5, costs=costs).ranking.tolist()
    assert ranking_of(out)["index"] == expected
    same = [row | {"completion": "q q q"} for row in rows]
    np.testing.assert_array_equal(fj.embed(same, str(llama), positions="prompt").tokens, emb.tokens)
    plain = write_rows(tmp_path / "t.jsonl", [{"text": "a b"}] * N)
    words = ["row 1 has no prompt", "prompt + completion"]
    target = out.with_name("t.jsonl")
    refused(
        [plain, "-o", target, "--model", llama, "--positions", "prompt", "--n-samples", K], words
    )


# Budgets, selectors and design


@pytest.mark.parametrize("name", ["uniform", "longest", "i_optimal", "fisher_per_token"])
def test_a_selector_by_name_is_the_librarys(name, run, ready, out, tmp_path):
    assert run(*ready, "-o", out, "--n-samples", K, "--selector", name, "--seed", 5)[0] == 0
    emb = standardized(write_embeddings(tmp_path / "again.safetensors"))
    expected = SELECTORS[name](emb, n_samples=K, seed=5)
    assert ranking_of(out)["index"] == expected.ranking.tolist()
    assert manifest_of(out)["options"]["selector"] == name


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_random_design_brings_its_weights(suffix, run, ready, out, tmp_path):
    out = out.with_name(f"chosen.{suffix}")
    argv = [*ready, "-o", out, "--n-samples", K, "--selector", "fisher_random", "--seed", 2]
    assert run(*argv)[0] == 0
    emb = standardized(write_embeddings(tmp_path / "again.safetensors"))
    expected = draw_fisher(emb, Budget.of(emb, n_samples=K), ridge=1.0, seed=2)
    rows = pq.read_table(out).to_pylist() if suffix == "parquet" else read_rows(out)
    assert [row["index"] for row in rows] == expected.ranking.tolist()
    np.testing.assert_allclose([row["fisher_weight"] for row in rows], expected.weights)


def test_selectors_that_need_more_and_options_without_use_are_refused(refused, ready, out):
    argv = [*ready, "-o", out, "--n-samples", K]
    refused([*argv, "--selector", "badge"], ["--selector", "invalid choice", "'badge'", "uniform"])
    refused([*argv, "--max-length", 9], ["--max-length goes with --model"])
    refused([*argv, "--positions", "prompt"], ["--positions goes with --model"])


def standardized(emb, *, center=False, normalize=True):
    tokens = emb.tokens - emb.tokens.mean(0) * center
    scale = np.sqrt((tokens**2).sum(1).mean()) if normalize else 1
    return fj.TokenEmbeddings(tokens / scale, emb.offsets)


DESIGNS = {
    "as they are": (["--normalize", "none"], {"normalize": False}, 1.0),
    "default": ([], {}, 1.0),
    "ridge": (["--ridge", "0.01"], {}, 0.01),
    "centred": (["--center"], {"center": True}, 1.0),
}


@pytest.mark.parametrize("name", DESIGNS)
def test_the_order_of_choice_is_that_of_select(name, run, out, tmp_path):
    options, treatment, ridge = DESIGNS[name]
    emb = write_embeddings(tmp_path / "emb.safetensors")
    emb.tokens[:] = emb.tokens * np.linspace(1, 3, D) + 2
    save_file({"tokens": emb.tokens, "offsets": emb.offsets}, tmp_path / "emb.safetensors")
    argv = ["--embeddings", tmp_path / "emb.safetensors", "-o", out, "--n-samples", K]
    assert run(*argv, *options)[0] == 0
    expected = fj.select(standardized(emb, **treatment), n_samples=K, ridge=ridge)
    rows = read_rows(out)
    assert [row["index"] for row in rows] == expected.ranking.tolist()
    assert [row["fisher_rank"] for row in rows] == list(range(K))
    np.testing.assert_allclose([row["fisher_gain"] for row in rows], expected.gains, rtol=1e-4)
    assert list(rows[0]) == ["index", "fisher_rank", "fisher_gain"]


# 0.3125 N = 2.5 and 0.25 N = 2.0 rows
@pytest.mark.parametrize(("fraction", "rows"), [("0.001", 1), ("0.25", 2), ("0.3125", 3)])
def test_a_fraction_is_rounded_half_up_and_buys_at_least_a_row(fraction, rows, run, ready, out):
    assert run(*ready, "-o", out, "--fraction", fraction)[0] == 0
    assert len(read_rows(out)) == rows


def test_a_token_budget_is_never_exceeded(run, out, tmp_path):
    lengths = [4, 2, 4, 2, 4, 2, 4, 2]
    emb = write_embeddings(tmp_path / "emb.safetensors", lengths)
    argv = ["--embeddings", tmp_path / "emb.safetensors", "-o", out, "--normalize", "none"]
    for budget in (3, 9):
        assert run(*argv, "--token-budget", budget, "--overwrite")[0] == 0
        ranking = ranking_of(out)
        assert 0 < sum(ranking["tokens"]) <= budget
        assert ranking["tokens"] == [lengths[i] for i in ranking["index"]]
        assert ranking["index"] == fj.select(emb, token_budget=float(budget)).ranking.tolist()
    assert run(*argv, "--token-budget", 10**400, "--overwrite")[0] == 0
    assert sorted(ranking_of(out)["index"]) == list(range(N))


def test_the_same_call_gives_the_same_bytes(run, ready, out, tmp_path):
    pool = write_rows(tmp_path / "p.jsonl", [{"x": i} for i in range(N)])
    outputs, uniform = [], []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        target = out.with_name(f"{name}.jsonl")
        assert run(pool, *ready, "-o", target, "--n-samples", K, "--seed", seed)[0] == 0
        ranking = target.with_name(target.name + ".report") / "ranking.parquet"
        outputs.append((target.read_bytes(), ranking.read_bytes()))
        uniform.append(manifest_of(target)["uniform_log_det"])
    assert outputs[0] == outputs[1] == outputs[2]
    assert uniform[0] == uniform[1] != uniform[2]


# Start-up and interruptions, in processes of their own


def test_help_names_every_option():
    command = Path(sys.executable).with_name("fisher-select")
    done = subprocess.run([command, "--help"], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    for option in (
        "POOL",
        "--out",
        "--n-samples",
        "--fraction",
        "--token-budget",
        "--model",
        "--embeddings",
        "--text-column",
        "--max-length",
        "--on-empty",
        "--batch-tokens",
        "--dtype",
        "--positions",
        "--selector",
        "--ridge",
        "--normalize",
        "--center",
        "--seed",
        "--report-dir",
        "--overwrite",
        "--version",
    ):
        assert option in done.stdout


@contextlib.contextmanager
def started(argv):
    """The command in a process, stderr unbuffered; killed if a test gives up."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # if ignored, the child would too
    process = subprocess.Popen(
        [sys.executable, "-m", "fisher_jax.cli", *map(str, argv)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(process, is_reached):
    for _ in range(30_000):
        if is_reached():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.003)
    raise AssertionError("the command never got there")


@pytest.mark.parametrize(
    ("stage", "number"), [("selecting", signal.SIGINT), ("writing", signal.SIGTERM)]
)
def test_an_interruption_leaves_everything_as_it_was(stage, number, ready, out, tmp_path):
    if stage == "writing":
        leave_earlier_results(out)
    before = snapshot(tmp_path)
    with started([*ready, "-o", out, "--n-samples", K, "--overwrite"]) as process:
        if stage == "selecting":
            assert process.stderr is not None
            seen = b""
            while b"selecting" not in seen:
                seen += (more := process.stderr.read(1))
                assert more, seen
        else:
            wait_for(process, lambda: any(tmp_path.rglob(".*.tmp/*.png")))
        process.send_signal(number)
        printed, messages = process.communicate(timeout=100)
    assert process.returncode == 130
    assert messages.endswith(b"fisher-select: interrupted, nothing was written\n")
    assert printed == b""
    assert snapshot(tmp_path) == before
