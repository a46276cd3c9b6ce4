"""Pools wherever they lie: packed, several, folders, standard input, addresses, the hub."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fisher_jax as fj
from fisher_jax.data import Columns, Example, PoolError
from fisher_jax.data.contents import taken
from fisher_jax.data.output import check_columns_fit, write_selection
from fisher_jax.data.pool_file import pool_of, read_pool
from fisher_jax.data.sets import Part
from fisher_jax.pipeline import Output
from tests.helpers.hub_server import serving

ROOT = Path(__file__).parents[2]
TEXTS = ["one row", "another, é", "a third"]
EXAMPLES = [Example(text) for text in TEXTS]
ROWS = [{"text": text, "id": i} for i, text in enumerate(TEXTS)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def parquet(rows=ROWS):
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def zstd(data):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


FILES = {
    "p.jsonl": LINES,
    "p.jsonl.gz": gzip.compress(LINES[:20]) + gzip.compress(LINES[20:]),  # as cat joins them
    "p.jsonl.bz2": bz2.compress(LINES),
    "p.ndjson.xz": lzma.compress(LINES),
    "p.jsonl.zst": zstd(LINES),
    "p.json": json.dumps(ROWS, indent=2).encode(),
    "one-line.json": json.dumps(ROWS).encode(),
    "lines.json": LINES,
    "array.jsonl": b"\xef\xbb\xbf" + json.dumps(ROWS, indent=1).encode(),
    "p.csv": b'text,id\none row,0\n"another, \xc3\xa9",1\na third,2\n',
    "p.tsv.gz": gzip.compress("text\tid\none row\t0\nanother, é\t1\na third\t2\n".encode()),
    "p.parquet": parquet(),
    "p.parquet.gz": gzip.compress(parquet()),
    "p.txt": "\n".join(TEXTS).encode(),
    "p.txt.gz": gzip.compress("\n".join(TEXTS).encode()),
}


@pytest.mark.parametrize("name", FILES)
def test_files_are_read_by_their_names(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(FILES[name])
    pool = read_pool(path)
    assert pool.rows == EXAMPLES
    assert pool.where(2).startswith(f"{path}, ")
    if ".txt" not in name:
        assert [int(row["id"]) for row in pool.content.records([2, 0])] == [2, 0]
    (line,) = pool.content.json_lines([1], [])
    assert json.loads(line)["text"] == TEXTS[1]


def test_blank_lines_are_left_out_and_numbers_stay_right(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(LINES.replace(b"\n", b"\n \n\n"))
    pool = read_pool(path)
    assert pool.rows == EXAMPLES
    assert [pool.where(i) for i in (0, 2)] == [f"{path}, line 1", f"{path}, line 7"]


def test_rows_of_an_array_are_named_by_their_lines(tmp_path):
    path = tmp_path / "p.json"
    path.write_text('[\n{"text": "a"}, {"text":\n "b"},\n{"text": 3}]')
    with pytest.raises(PoolError, match=r"p\.json, line 4: column 'text' holds"):
        read_pool(path)
    pool = read_pool(path, skip_bad=True)
    assert pool.content.lines == ['{"text": "a"}', '{"text":  "b"}']
    assert len(pool.bad) == 1 and pool.where(1) == f"{path}, line 2"


def test_several_files_and_patterns_are_one_pool(tmp_path):
    for i, name in enumerate(("a.jsonl", "b.parquet", "c.txt")):
        (tmp_path / name).write_bytes((LINES, parquet(), "\n".join(TEXTS).encode())[i])
    pool = read_pool([tmp_path / "a.jsonl", tmp_path / "b.parquet", tmp_path / "c.txt"])
    assert pool.rows == EXAMPLES * 3
    assert [pool.where(i) for i in (1, 3, 8)] == [
        f"{tmp_path}/a.jsonl, line 2", f"{tmp_path}/b.parquet, row 0", f"{tmp_path}/c.txt, line 3"
    ]  # fmt: skip
    got = [json.loads(line)["text"] for line in pool.content.json_lines([8, 0, 4], [])]
    assert got == [TEXTS[2], TEXTS[0], TEXTS[1]]
    table = pool.content.table([8, 0, 4], [])
    assert table.to_pylist() == [{"text": TEXTS[2], "id": None}, ROWS[0], ROWS[1]]
    (tmp_path / "d.jsonl").write_bytes(LINES)
    assert read_pool(tmp_path / "*.jsonl").rows == EXAMPLES * 2


def test_a_folder_is_its_files_of_one_format(tmp_path):
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    for i in range(2):
        (folder / "data" / f"train-{i:05d}.parquet").write_bytes(parquet(ROWS[i : i + 1]))
    (folder / "README.txt").write_text("not rows")
    assert read_pool(folder).rows == EXAMPLES[:2]


@pytest.mark.parametrize("name", FILES)
def test_standard_input_is_told_by_its_bytes(name, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(FILES[name])))
    pool = read_pool("-")
    assert pool.rows == EXAMPLES and pool.where(0).startswith("standard input, ")
    assert pool.sha256 == hashlib.sha256(FILES[name]).hexdigest()


@pytest.mark.parametrize(
    ("data", "columns", "shape", "n"),
    [
        (b"text, so to speak\na,b\n", Columns(), "text (text)", 2),  # no line of names
        (b"body,id\na,1\n", Columns(), "text (text)", 2),
        (b"body,id\na,1\n", Columns(text="body"), "text (body)", 1),
        (b'"prompt"\t"completion"\r\na\tb\r\n', Columns(), "prompt-completion (", 1),
    ],
)
def test_standard_input_is_csv_if_it_names_columns(data, columns, shape, n, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    pool = read_pool("-", columns)
    assert pool.shape.startswith(shape) and len(pool.rows) == n


def test_rows_that_cannot_be_used_are_listed(tmp_path):
    path = tmp_path / "p.jsonl"
    bad = [b"{", b"[1]", b'{"body": "a"}', b'{"text": 3}', b'{"text": "\\ud800"}']
    path.write_bytes(b"\n".join([bad[0], *LINES.splitlines(), *bad[1:]]))
    with pytest.raises(PoolError, match=r"line 1 is not JSON"):
        read_pool(path)
    pool = read_pool(path, skip_bad=True)
    assert pool.rows == EXAMPLES and len(pool.content) == 3
    assert [line.split(", ")[1][:6] for line in pool.bad] == [f"line {i}" for i in (1, 5, 6, 7, 8)]
    path.write_bytes(b"{\n{\n")
    with pytest.raises(PoolError, match=r"has no row that can be used: the first, .*line 1"):
        read_pool(path, skip_bad=True)
    table = tmp_path / "p.csv"
    table.write_bytes(b"text,id\na,0\nb,1,2\nc,3\n")
    pool = read_pool(table, skip_bad=True)
    assert [row.completion for row in pool.rows] == ["a", "c"] and "row 1 has 3" in pool.bad[0]
    assert [pool.where(i).split(", ")[1] for i in range(2)] == ["row 0", "row 2"]


def test_null_is_empty(tmp_path):
    path = tmp_path / "p.jsonl"
    rows = [{"text": None}, {"text": "a"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_pool(path).rows == [Example(""), Example("a")]
    path.write_text('{"messages": []}\n{"messages": null}\n')
    assert read_pool(path).rows == [Example([]), Example([])]
    path.write_text('{"prompt": "q", "completion": null}\n')
    assert read_pool(path).rows == [Example("", "q")]


def test_names_of_a_csv_file_may_be_longer_than_a_block(tmp_path):
    path = tmp_path / "p.csv"
    names = ",".join(f"column_{i:07d}" for i in range(80_000))
    path.write_text(f"text,{names}\na b{',1' * 80_000}\n")
    assert read_pool(path).rows == [Example("a b")]


def test_a_number_of_thousands_of_digits_is_kept(tmp_path):
    path = tmp_path / "p.jsonl"
    line = '{"text": "a", "id": ' + "9" * 5000 + "}"
    path.write_text(line + "\n")
    pool = read_pool(path)
    assert pool.content.json_lines([0], []) == [line]
    with pytest.raises(PoolError, match=r"can't hold .*write a \.jsonl instead"):
        check_columns_fit(tmp_path / "out.parquet", pool)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_an_earlier_selection_is_a_pool(tmp_path, suffix):
    path, out = tmp_path / "p.jsonl", tmp_path / f"first{suffix}"
    path.write_bytes(LINES)
    for source, target in ((path, out), (out, tmp_path / "second.jsonl")):
        pool = read_pool(source)
        assert pool.replaced == ([] if source == path else ["fisher_gain", "fisher_rank"])
        write_selection(target, target, pool, np.array([1, 0]), np.array([2.5, 1.5]))
    got = [json.loads(line) for line in target.read_text().splitlines()]
    ranks = [{"fisher_rank": 0, "fisher_gain": 2.5}, {"fisher_rank": 1, "fisher_gain": 1.5}]
    assert got == [ROWS[0] | ranks[0], ROWS[1] | ranks[1]]


def test_an_earlier_selection_of_jsonl_is_kept_to_the_letter(tmp_path):
    path, out = tmp_path / "p.jsonl", tmp_path / "out.jsonl"
    columns = [
        '"text": "a, }\\u00e9"',
        '"x": 1e400',
        '"x" :-0.10',
        '"id": ' + "9" * 5000,
        '"y": {}',
    ]
    for at in range(len(columns) + 1):
        earlier = [*columns[:at], '"fisher_rank":3', '"fisher_gain" : [1]', *columns[at:]]
        path.write_text(f" {{ {' , '.join(earlier)} }} \n")
        pool = read_pool(path)
        Output.of(out).check_room(pool, 1.0)
        write_selection(out, out, pool, np.array([0]), np.array([2.5]))
        added = ['"fisher_rank": 0', '"fisher_gain": 2.5']
        assert out.read_text() == f"{{{', '.join([*columns, *added])}}}\n"
    path.write_text('{"fisher_rank": 0}\n{"note": "fisher_rank"}\n')
    pool = read_pool(path, needs_text=False)
    assert pool.content.json_lines([0, 1], ["fisher_rank"]) == ["{}", '{"note": "fisher_rank"}']


def test_columns_are_named_where_they_are_not_known(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"ask": "q", "reply": "a", "text": "t", "chat": [{"from": "human"}]}\n')
    assert read_pool(path, Columns(prompt="ask", completion="reply")).rows == [Example("a", "q")]
    assert read_pool(path, Columns(text="reply")).rows == [Example("a")]
    with pytest.raises(PoolError, match=r"line 1: column 'chat' holds a message without"):
        read_pool(path, Columns(messages="chat"))
    with pytest.raises(PoolError, match="line 1 has no column 'instruction'"):
        read_pool(path, Columns(format="alpaca"))
    path.write_text('{"fisher_rank": "a b"}\n')
    with pytest.raises(PoolError, match="line 1 has its text in 'fisher_rank', which we write"):
        read_pool(path, Columns(text="fisher_rank"))
    for wrong in ({"prompt": "a"}, {"format": "alpaca", "text": "a"}, {"format": "alpacca"}):
        with pytest.raises(PoolError, match="`"):
            Columns(**wrong)


def test_a_column_of_more_than_two_gibibytes_is_taken_from():
    """Arrow can't join its chunks, which here are one."""
    chunk = pa.array(["a" * (250 << 20)])
    table = pa.table({"html": pa.chunked_array([chunk] * 9), "id": range(9)})
    with pytest.raises(pa.ArrowInvalid, match="overflow"):
        table.take([8, 0])
    got = taken(table, [8, 0])
    assert got["id"].to_pylist() == [8, 0] and got["html"].nbytes > 500 << 20


def test_nulls_in_all_messages_of_a_table_do_no_harm(tmp_path):
    asks = {"role": "user", "content": "q", "tool_calls": None}
    path, out = tmp_path / "p.parquet", tmp_path / "out.parquet"
    says = {"role": "assistant", "content": "a", "tool_calls": None}
    view = pa.array(["x"], pa.string_view())
    table = pa.Table.from_pylist([{"messages": [asks, says]}]).append_column("view", view)
    pq.write_table(table, path)
    pool = read_pool(path)
    assert pool.rows[0].messages == [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
    ]
    write_selection(out, out, pool, np.array([0]), np.array([1.0]))
    assert read_pool(out).rows == pool.rows


# Addresses and the package datasets


def test_addresses_are_read():
    pytest.importorskip("aiohttp", reason="needs: pip install -e '.[data]'")
    with serving({"": FILES}) as address:
        for name in ("p.jsonl", "p.jsonl.gz", "p.parquet", "p.csv"):
            pool = read_pool(f"{address}/{name}?download=true")
            assert pool.rows == EXAMPLES and pool.where(0).startswith(address)
        with pytest.raises(PoolError, match=r"there is no file .*/none\.jsonl.*check the address"):
            read_pool(f"{address}/none.jsonl")


@pytest.mark.parametrize("name", [name for name in FILES if Path(name).suffix in (".gz", ".zst")])
def test_a_packed_file_that_is_cut_or_damaged_is_told(name, tmp_path):
    content, path = FILES[name], tmp_path / name
    middle = len(content) // 2
    for broken in (content[:-9], content[:middle], content[:middle] + b"####" + content[middle:]):
        path.write_bytes(broken)
        with pytest.raises(PoolError, match=re.escape(f"{path} can't be unpacked (")):
            read_pool(path)


def test_a_damaged_saved_set_is_told(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs: pip install -e '.[data]'")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "set")
    (arrow,) = (tmp_path / "set").glob("*.arrow")
    content = arrow.read_bytes()
    ends = np.cumsum([0, *(len(text.encode()) for text in TEXTS)], dtype=np.int32).tobytes()
    assert content.count(ends) == 1  # where each text ends
    arrow.write_bytes(content.replace(ends, b"\xff\xff\xff\x7f" * 4))
    with pytest.raises(PoolError, match=re.escape(f"{tmp_path / 'set'} is damaged (")):
        read_pool(tmp_path / "set")


def test_saved_sets_are_read_and_written(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs: pip install -e '.[data]'")
    whole = datasets.Dataset.from_list(ROWS)
    whole.shuffle(seed=1).save_to_disk(tmp_path / "one")
    assert sorted(read_pool(tmp_path / "one").rows) == sorted(EXAMPLES)
    datasets.DatasetDict(train=whole, test=whole.select([1])).save_to_disk(tmp_path / "two")
    assert read_pool(tmp_path / "two", part=Part("test")).rows == EXAMPLES[1:2]
    with pytest.raises(PoolError, match="has several splits, it has train, test: pass `split`"):
        read_pool(tmp_path / "two")
    with pytest.raises(PoolError, match="no split 'dev', it has train, test"):
        read_pool(tmp_path / "two", part=Part("dev"))
    with pytest.raises(PoolError, match="got one DatasetDict: of a DatasetDict take a split"):
        fj.choose(datasets.DatasetDict(train=whole), model="none", n_samples=1)
    pool = pool_of(whole)
    assert pool.rows == EXAMPLES == pool_of(ROWS).rows == pool_of(TEXTS).rows
    for name in ("out.jsonl", "out.json", "out.parquet", "out"):
        out = tmp_path / name
        write_selection(out, out, pool, np.array([2, 0]), np.array([2.5, 1.5]))
        kind = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}.get(out.suffix)
        loaded = (
            datasets.load_dataset(kind, data_files=str(out), split="train", cache_dir=tmp_path)
            if kind
            else datasets.load_from_disk(out)
        )
        assert loaded["text"][:] == [TEXTS[2], TEXTS[0]]
        assert loaded["fisher_gain"][:] == [2.5, 1.5] and loaded["id"][:] == [2, 0]


SCRIPT = """
from fisher_jax.data.pool_file import read_pool
from fisher_jax.data.sets import Part
pool = read_pool("someone/rows")
print(len(pool), pool.shape, pool.rows[0].completion)
print(len(read_pool("someone/rows", part=Part("test"))))
for name, part in (("someone/none", None), ("someone/rows", Part("dev"))):
    try:
        read_pool(name, part=part)
    except ValueError as error:
        print(error)
for name in ("rows/data/train.jsonl", "rows/data/*.jsonl", "rows/n.jsonl", "none/*.jsonl"):
    try:
        print(len(read_pool(f"hf://datasets/someone/{name}")))
    except ValueError as error:
        print(error)
"""
COMMAND = """
import sys
from fisher_jax.command.main import main
sys.exit(main(sys.argv[1:]))
"""


def python(script, *words, folder, **env):
    """Run a script in a folder, whose hub is that of the environment."""
    return subprocess.run(
        [sys.executable, "-c", script, *words],
        env=os.environ | {"HF_HOME": str(folder), "PYTHONPATH": str(ROOT)} | env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_hub_is_read_by_name_and_by_address(tmp_path):
    pytest.importorskip("datasets", reason="needs: pip install -e '.[data]'")
    files = {"data/train.jsonl": LINES, "data/test.jsonl": LINES[: LINES.index(b"\n") + 1]}
    with serving({"someone/rows": files}) as address:
        done = python(SCRIPT, folder=tmp_path, HF_ENDPOINT=address)
    assert done.returncode == 0, done.stderr
    read, test, none, dev, one, two, *lacking = done.stdout.splitlines()
    assert read == "3 text (text) one row" and test == "1"
    assert none.startswith("someone/none can't be read as a data set (")
    assert dev.startswith("someone/rows ") and "dev" in dev and "`split`" in dev
    assert (one, two) == ("3", "4")
    for line, name in zip(lacking, ("rows/n.jsonl", "none/*.jsonl"), strict=True):
        assert line.startswith(f"there is no file hf://datasets/someone/{name}, or it is private")


def test_an_address_that_is_out_of_reach_is_told_in_a_line(tmp_path):
    name = "hf://datasets/someone/rows/data.jsonl"
    words = [name, "-o", "out.jsonl", "--model", "none", "--n-samples", "1"]
    done = python(COMMAND, *words, folder=tmp_path, HF_HUB_OFFLINE="1")
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"fisher-select: error: {name} can't be read (")
    assert "offline" in line and "check the address and the network" in line
    assert not (tmp_path / "out.jsonl").exists()
