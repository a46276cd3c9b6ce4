"""Pools that `fisher-select` refuses: one line, code 2, and every file as it was."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.cli import (
    M,
    leave_earlier_results,
    write_embeddings,
    write_rows,
)

GOOD = b'{"text": "a b c d e"}\n'


def parquet(**columns):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def twice():
    sink, column = pa.BufferOutputStream(), pa.array(["a b"])
    pq.write_table(pa.Table.from_arrays([column, column], ["text", "text"]), sink)
    return sink.getvalue().to_pybytes()


def rows_told(n):
    """Parquet of 77,777 rows whose footer tells of others."""
    data = parquet(text=["a b"] * 77_777)
    at = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    footer = data[at:-8].replace(varint(77_777), varint(n), 1)  # the first is the file's
    return data[:at] + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def varint(n):
    """A number as Thrift writes it."""
    bits = bin(2 * n)[2:]
    septets = [int(bits[max(0, end - 7) : end], 2) for end in range(len(bits), 0, -7)]
    return bytes([*(septet | 128 for septet in septets[:-1]), septets[-1]])


def not_utf8():
    offsets, letters = pa.py_buffer(np.array([0, 1, 3], np.int32)), pa.py_buffer(b"a\xff\xfe")
    return parquet(text=pa.Array.from_buffers(pa.string(), 2, [None, offsets, letters]))


POOLS = {
    "empty": ("p.jsonl", b"", ["is empty", "at least one row"]),
    "only line ends": ("p.txt", b"\r\n\n\n", ["is empty", "at least one row"]),
    "broken JSON": (
        "p.jsonl",
        GOOD * 6 + b'{"text": "a"\n' + GOOD,
        ["line 7 is not JSON (", ", column 13)", "mend or remove"],
    ),
    "blank line": (
        "p.jsonl",
        GOOD * 2 + b"\n{\n" + GOOD,
        ["line 4", "not JSON", "remove the line"],
    ),
    "deep nesting": ("p.jsonl", GOOD + b"[" * 100_000, ["line 2", "not JSON"]),
    "no object": (
        "p.jsonl",
        GOOD + b'["a b"]\n',
        ["line 2", "a list, not a JSON object", "mend"],
    ),
    "rows within": ("p.json", b'{"data": [{"text": "a"}]}', ["object, not an array", "its 'data'"]),
    "rows within lines": (
        "p.json",
        b'{\n "version": 1,\n "data": [{"text": "a"}]\n}\n',
        ["object, not an array", "take the array in its 'data'"],
    ),
    "an object of lines": (
        "p.jsonl",
        b'{\n "messages": [{"role": "user", "content": "a"}]\n}\n',
        ["object, not an array", "write it in one line"],
    ),
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
    "a part": (
        "p.jsonl",
        b'{"messages": [{"role": "user", "content": [1]}]}\n',
        ["line 1", "a part that is no text, but 'int'"],
    ),
    "NaN": ("p.jsonl", GOOD + b'{"text": "a b", "x": NaN}\n', ["line 2", "NaN", "mend or remove"]),
    "half a character": (
        "p.jsonl",
        GOOD + b'{"text": "a \\ud800"}\n',
        ["line 2", "lone surrogate", "mend or remove"],
    ),
    "truncated": ("p.jsonl.gz", gzip.compress(GOOD * 9)[:-9], ["can't be unpacked", "get it anew"]),
    "broken array": ("p.json", b'[{"text": "a"},\n{"text"}]', ["line 2", "not JSON", "the array"]),
    "values": ("p.csv", b"text,x\na,1\nb,2,3\n", ["row 1", "has 3 values, not 2"]),
    "CSV names": ("p.csv", b"text,x,x\na,1,2\n", ["several columns 'x'", "rename or drop one"]),
    "CSV not UTF-8": ("p.csv", b"text,\xff\na,1\n", ["line 1", "not UTF-8", "Convert it"]),
    "a long row not UTF-8": ("p.csv", b"text\na\n\xb1,2\n", ["line 3", "not UTF-8"]),
    "binary": ("p.txt", b"PK\x03\x04\n\xfe\xff\xfa", ["line 2", "not UTF-8", "binary"]),
    "zero bytes": ("p.jsonl", b"\x00" * 64, ["line 1", "zero byte", "binary"]),
    "other": ("p.doc", b"text\na b\n", ["must end in .jsonl", ".parquet", ".txt"]),
    "not Parquet": ("p.parquet", GOOD, ["not readable as Parquet", "write it anew"]),
    "no rows": ("p.parquet", parquet(text=pa.array([], pa.string())), ["is empty"]),
    "Parquet type": (
        "p.parquet",
        parquet(text=[1, None]),
        ["row 0", "an int, not a string", "mend"],
    ),
    "Parquet column": ("p.parquet", parquet(body=["a b"]), ["no column 'text'", "--text-column"]),
    "Parquet names": ("p.parquet", twice(), ["several columns 'text'", "rename or drop one"]),
    "Parquet name": (
        "p.parquet",
        parquet(text=["a b"], xyz=["c"]).replace(b"xyz", b"x\xffz"),
        ["not readable as Parquet", "write it anew"],
    ),
    "Parquet rows": (
        "p.parquet",
        rows_told(80_000),
        ["(77777 rows, its footer says 80000)", "write it anew"],
    ),
    "Parquet of 64 TB": (
        "p.parquet",
        rows_told(10**12),
        ["1,000,000,000,000 rows by its footer", "GiB or more", "split it"],
    ),
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
    (tmp_path / "none").mkdir()
    refused([tmp_path / "none", *rest], [tmp_path, "is a folder without"])
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
    "no columns": ("p.jsonl", [{}, {}], ".jsonl"),
    "deep lists": ("p.jsonl", '{"x": ' + "[" * 60 + "]" * 60 + "}\n{}\n", ".jsonl"),
    "bytes": ("p.parquet", {"x": [b"a", b"\xff"]}, ".parquet"),
    "NaN": ("p.parquet", {"x": [0.5, float("nan")]}, ".parquet"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_columns_that_the_output_cannot_hold_are_refused(name, refused, out, tmp_path):
    filename, content, remedy = MISFITS[name]
    pool, emb = tmp_path / filename, tmp_path / "emb.safetensors"
    if pool.suffix == ".jsonl":
        pool.write_text(content) if isinstance(content, str) else write_rows(pool, content)
        out = out.with_suffix(".parquet")
    else:
        pool.write_bytes(parquet(**content))
    write_embeddings(emb, lengths=(M, M))
    leave_earlier_results(out)
    argv = [pool, "-o", out, "--embeddings", emb, "--n-samples", "1", "--overwrite"]
    refused(argv, [out, pool, "can't hold", f"write a {remedy} instead"])


@pytest.mark.parametrize(
    ("name", "kind"), [("x", pa.map_(pa.string(), pa.int8())), ("a\0b", pa.string())], ids=str
)
def test_columns_that_a_saved_set_cannot_hold_are_refused(name, kind, refused, out, tmp_path):
    pytest.importorskip("datasets", reason="needs: pip install -e '.[data]'")
    pool, emb, out = tmp_path / "p.parquet", tmp_path / "emb.safetensors", out.with_suffix("")
    pool.write_bytes(parquet(**{name: pa.array([None, None], kind)}))
    write_embeddings(emb, lengths=(M, M))
    argv = [pool, "-o", out, "--embeddings", emb, "--n-samples", "1", "--dry-run"]
    refused(argv, [out, pool, "can't hold", "write another format instead"])


@pytest.mark.parametrize("flag", ["--exclude", "--initial", "--targets"])
def test_rows_beside_the_pool_may_have_an_address(flag, refused, out, tmp_path):
    pool = tmp_path / "p.jsonl"
    pool.write_bytes(GOOD)
    argv = [pool, "-o", out, "--model", "none", "--n-samples", "1", flag, "memory://none.jsonl"]
    if flag == "--targets":
        argv += ["--selector", "rds"]
    refused(argv, ["there is no file memory://none.jsonl", "check the address"])
