"""What `fisher-select` refuses: one line, code 2, and every file as it was."""

import json
import os
from pathlib import Path

import gguf
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from fisher_jax.report import FILES, write_ranking
from tests.helpers.cli import (
    EARLIER,
    D,
    K,
    M,
    N,
    leave_earlier_results,
    manifest_of,
    read_rows,
    snapshot,
    write_embeddings,
    write_rows,
)

# Arguments

ARGUMENTS = {
    "K of 0": (["--n-samples", "0"], ["--n-samples must be above 0", "got 0"]),
    "negative K": (["--n-samples", "-5"], ["--n-samples must be above 0", "got -5"]),
    "K above N": (
        ["--n-samples", N + 1],
        [f"--n-samples {N + 1}: ", f"emb.safetensors has {N} rows", "ask for at most that"],
    ),
    "K of half a row": (["--n-samples", "2.5"], ["--n-samples", "invalid int", "2.5", "--help"]),
    "fraction 0": (["--fraction", "0"], ["--fraction must be above 0 and at most 1", "got 0"]),
    "fraction 1.5": (["--fraction", "1.5"], ["--fraction must be above 0 and at most 1", "1.5"]),
    "fraction nan": (["--fraction", "nan"], ["--fraction must be a number", "nan"]),
    "no tokens": (["--token-budget", "0"], ["--token-budget must be above 0", "got 0"]),
    "too few tokens": (
        ["--token-budget", M - 1],
        [f"--token-budget {M - 1} buys nothing", f"has {M} tokens"],
    ),
    "two budgets": (
        ["--n-samples", "1", "--fraction", "0.5"],
        ["exactly one of", "got --n-samples=1 and --fraction=0.5"],
    ),
    "no budget": ([], ["exactly one of --n-samples", "got none"]),
    "unknown option": (["--n-samples", "1", "--nope"], ["--nope", "--help"]),
    "abbreviation": (["--n-samp", "1"], ["--n-samp", "--help"]),
    "unknown choice": (["--n-samples", "1", "--on-empty", "keep"], ["--on-empty", "keep", "skip"]),
    "ridge 0": (["--n-samples", "1", "--ridge", "0"], ["--ridge must be a positive number"]),
    "ridge 1e-15": (["--n-samples", "1", "--ridge", "1e-15"], ["--ridge must be at least 1e-14"]),
    "no name": (["--n-samples", "1", "--report-dir", ""], ["--report-dir", "it is empty"]),
    "no UTF-8": (["--n-samples", "1", "--report-dir", "\udcff"], ["not UTF-8: rename it first"]),
    "ridge inf": (["--n-samples", "1", "--ridge", "inf"], ["--ridge must be a positive number"]),
    "batch 0": (["--n-samples", "1", "--batch-tokens", "0"], ["--batch-tokens", "at least 1"]),
    "seed -1": (["--n-samples", "1", "--seed", "-1"], ["--seed", "from 0"]),
    "seed 2^32": (
        ["--n-samples", "1", "--seed", 2**32],
        ["--seed must be a whole number from 0"],
    ),
    "no dimension": (["--n-samples", "1", "--project-dim", "0"], ["--project-dim", "at least 1"]),
    "no smaller width": (
        ["--n-samples", "1", "--project-dim", D],
        [f"--project-dim must be from 1 to {D - 1}, below the width {D}, got {D}"],
    ),
    "a ridge of 400 digits": (["--n-samples", "1", "--ridge", 10**400], ["--ridge must be a po"]),
    "a name with a zero byte": (
        ["--n-samples", "1", "--report-dir", "a\0b"],
        ["argument --report-dir: 'a\\x00b' has a zero byte: rename it first"],
    ),
    "caps of two kinds": (
        ["--n-samples", "1", "--group-cap", "2", "--group-cap", "a=1"],
        ["argument --group-cap: give one cap for all groups, or NAME=NUMBER ones"],
    ),
    "on empty": (["--n-samples", "1", "--on-empty", "skip"], ["--on-empty goes with --model"]),
    "dtype": (["--n-samples", "1", "--dtype", "bfloat16"], ["--dtype goes with --model"]),
    "two sources": (["--n-samples", "1", "--model", "none"], ["either --model", "--embeddings"]),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_wrong_arguments_are_refused(name, refused, ready, out):
    argv, words = ARGUMENTS[name]
    leave_earlier_results(out)
    refused([*ready, "-o", out, "--overwrite", *argv], words)


def test_too_many_choices_are_refused_before_a_model_is_loaded(refused, out, tmp_path):
    pool = write_rows(tmp_path / "p.jsonl", [{"text": text} for text in ("a b", "a b", "b c")])
    argv = [pool, "-o", out, "--model", "none", "--deduplicate", "exact", "--n-samples", "3"]
    refused(argv, [f"--n-samples 3: {pool} has 2 rows to choose from"])


def test_no_output_no_pool_and_no_model_are_refused(refused, ready, out, tmp_path):
    pool = write_rows(tmp_path / "p.jsonl", [{"text": "a b"}])
    refused([*ready, "--n-samples", "1"], ["-o/--out", "--help"])
    refused(["-o", out, "--model", "none", "--n-samples", "1"], ["give a POOL", ".jsonl"])
    refused([pool, "-o", out, "--n-samples", "1"], ["give either --model", "--embeddings"])


# Outputs


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
    of_fisher = {*FILES} - {"judged.png"}
    assert {path.name for path in report.iterdir()} == {*of_fisher, *leftovers}
    assert leftovers == {"mine.txt"}
    assert manifest_of(out)["result"]["selected_rows"] == K


def test_an_output_that_comes_while_we_work_is_kept(run, ready, out, monkeypatch, tmp_path):
    def meanwhile(*args):
        write_ranking(*args)
        out.write_bytes(EARLIER)

    monkeypatch.setattr("fisher_jax.pipeline.choice.write_ranking", meanwhile)
    before = snapshot(tmp_path)
    code, messages = run(*ready, "-o", out, "--n-samples", K)
    assert code == 2 and f"{out} exists: name another output" in messages
    assert snapshot(tmp_path) == before | {out: EARLIER}


def test_an_output_that_cannot_be_is_refused(refused, ready, out, tmp_path):
    budget = ["--n-samples", "1", "--overwrite"]
    words = ["OUT must end in .jsonl, .json or .parquet, or be a new folder"]
    refused([*ready, "-o", out.with_suffix(".csv"), *budget], words)
    missing = tmp_path / "nowhere" / "chosen.jsonl"
    refused([*ready, "-o", missing, *budget], [missing.parent, "does not exist", "make it first"])
    for inside in (out, out / "report"):
        given = [*ready, "-o", out, *budget, "--report-dir", inside]
        refused(given, [f"--report-dir {inside} is OUT or inside it"])
    out.mkdir()
    refused([*ready, "-o", out, *budget], [out, "is a folder", "name another output"])
    out.rmdir()
    report = out.with_name(out.name + ".report")
    report.write_bytes(EARLIER)
    refused([*ready, "-o", out, *budget], [report, "not a folder", "name another"])
    report.unlink()
    report.symlink_to(out.parent / "nowhere")
    refused([*ready, "-o", out, *budget], [report, "not a folder", "name another"])
    report.unlink()
    long = out.with_name("x" * 240 + ".jsonl")
    refused([*ready, "-o", long, *budget], ["can't write xxx", "choose another place or name"])
    out.write_bytes(EARLIER)
    (report / "report.html").mkdir(parents=True)
    refused([*ready, "-o", out, *budget], [report / "report.html", "is a folder"])
    (report / "report.html").rmdir()
    out.unlink()
    out.symlink_to(out.name)  # to itself
    refused([*ready, "-o", out, *budget[:2]], [out, "exists", "--overwrite"])
    out.unlink()
    out.symlink_to(os.devnull)
    refused([*ready, "-o", out, *budget], [out, "is a pipe or a device", "name another output"])


def test_a_pool_that_cannot_fit_is_refused(refused, run, llama, out, tmp_path, monkeypatch):
    pool = write_rows(tmp_path / "pool.jsonl", [{"text": "a b c"}] * 4)
    argv = [pool, "-o", out, "--model", llama, "--n-samples", "1"]
    monkeypatch.setattr("fisher_jax.pipeline.plan.physical_memory", lambda: 4.0 * 8 * D - 1)
    refused(argv, ["8 tokens of width 8 need about 1.0 GiB", "smaller --max-length"])


def test_no_input_is_ever_replaced(refused, tmp_path):
    pool, emb = tmp_path / "p.jsonl", tmp_path / "emb.safetensors"
    write_rows(pool, [{"x": i} for i in range(N)])
    write_embeddings(emb)
    rest = ["--embeddings", emb, "--n-samples", "1", "--overwrite"]
    refused([pool, "-o", pool, *rest], [pool, "which is read", "name another file"])
    link, hard = tmp_path / "link.jsonl", tmp_path / "hard.jsonl"
    link.symlink_to(pool)
    hard.hardlink_to(pool)
    for other in (link, hard):
        refused([pool, "-o", other, *rest], [other, "which is read"])
    pool = tmp_path / "ranking.parquet"
    pq.write_table(pa.table({"x": range(N)}), pool)
    argv = [pool, "-o", tmp_path / "chosen.parquet", *rest, "--report-dir", tmp_path]
    refused(argv, ["the report would replace", pool, "--report-dir"])
    argv = ["-o", pool, *rest, "--report-dir", tmp_path]
    refused(argv, ["the report would replace", pool, "--report-dir"])


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder no one can write to")
def test_a_place_that_cannot_be_written_to_is_refused(refused, ready, out):
    budget = ["--n-samples", "1"]
    words = ["can't write", "into /proc (", "choose another place"]
    refused([*ready, "-o", "/proc/chosen.jsonl", *budget], words)
    refused([*ready, "-o", out, "--report-dir", "/proc/new/report", *budget], words)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(refused, ready, out):
    out.parent.chmod(0o555)
    try:
        refused([*ready, "-o", out, "--n-samples", "1"], ["can't write into", out.parent])
    finally:
        out.parent.chmod(0o755)


def test_a_report_may_go_deep_into_new_folders(run, ready, out):
    deep = out.parent.joinpath(*(letter * 60 for letter in "abcde"))
    assert run(*ready, "-o", out, "--report-dir", deep, "--n-samples", 1)[0] == 0
    assert {path.name for path in deep.iterdir()} <= {*FILES}
    assert {path.name for path in out.parent.iterdir()} == {out.name, "a" * 60}


# Embeddings


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
    save_file({"tokens": tokens.astype(np.complex64), "offsets": offsets}, emb)
    refused(argv, [emb, "tokens must be real numbers, got complex64"])
    header = {
        "tokens": {"dtype": "F8_E4M3", "shape": [2, 1], "data_offsets": [0, 2]},
        "offsets": {"dtype": "I64", "shape": [2], "data_offsets": [2, 18]},
    }
    text = json.dumps(header).encode()
    emb.write_bytes(len(text).to_bytes(8, "little") + text + bytes(18))
    refused(argv, [emb, "not readable as safetensors", "float8"])


def test_embeddings_of_another_pool_are_refused(refused, ready, out, tmp_path):
    pool = write_rows(tmp_path / "p.jsonl", [{"x": i} for i in range(N + 1)])
    words = [f"{N} examples", f"{pool} has {N + 1} rows", "the same rows in the same order"]
    refused([pool, "-o", out, *ready, "--n-samples", "1"], words)


# Models


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
    file = llama / "model.safetensors"
    refused([*argv, file], [f"{file} is a file: name its folder, {llama}"])
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


def test_weights_that_are_no_numbers_are_told(run, llama, out, tmp_path):
    pool = write_rows(tmp_path / "p.jsonl", [{"text": "a b"}])
    folder = copy(llama, tmp_path / "llama")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][2] = np.nan
    save_file(weights, folder / "model.safetensors")
    argv = [pool, "-o", out, "--n-samples", "1", "--model", folder]
    before = snapshot(tmp_path)
    code, messages = run(*argv)
    assert code == 2 and snapshot(tmp_path) == before
    assert f"{folder} gives embeddings that are not finite: its weights are damaged" in messages


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
