"""Pools in and chosen rows out: what is written is what was read, rank and gain beside it."""

import datetime
import decimal
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from fisher_jax.command.main import main
from fisher_jax.data import Columns, Example
from fisher_jax.data.example import PoolError
from fisher_jax.data.pool_file import read_pool
from fisher_jax.design.embeddings_file import read_embeddings
from fisher_jax.util.files import replacing, replacing_files

N, M, D, K = 8, 4, 8, 3  # one shape: each other is a compilation


@pytest.fixture
def choose(tmp_path, capsys):
    """Choose rows of a pool whose embeddings are ready; gives OUT and the rows' indices."""

    def choose(pool, name="chosen.jsonl", n_samples=K):
        rng = np.random.default_rng(0)
        tokens = rng.standard_normal((N * M, D), dtype=np.float32)
        emb, out = tmp_path / "emb.safetensors", tmp_path / name
        save_file({"tokens": tokens, "offsets": np.arange(0, N * M + 1, M)}, emb)
        argv = [pool, "-o", out, "--embeddings", emb, "--n-samples", n_samples]
        assert main([str(word) for word in argv]) == 0, capsys.readouterr().err
        ranking = pq.read_table(tmp_path / f"{name}.report" / "ranking.parquet").to_pydict()
        assert ranking["rank"] == list(range(n_samples))
        assert len(set(ranking["index"])) == n_samples
        assert ranking["index"] != sorted(ranking["index"])  # the pool's order would not do
        return out, ranking

    return choose


def exact(line):
    """A line of JSON with every number as it is written and keys in order."""
    return json.loads(line, parse_int=str, parse_float=str, object_pairs_hook=list)


LINES = [
    '{"text": "a", "id": 12345678901234567890123, "x": 1.0}',
    '{"x": 1e5, "text": "b", "nested": {"z": [1, {"y": null}], "a": true}}',
    '{"text":"\\u00e9 is é","kind":"Größe","emoji":"🙂 \\ud83d\\ude42"}',
    '{ "text" : "c" , "x" : 0.10 }  ',
    '  {"text": "d", "x": -0.0, "y": 1E400}',
    "{}",
    '{"text": "e", "x": 1, "x": 2}',
    '{"odd": "\\ud800", "line": "\\u2028 and }"}',
]


def test_jsonl_keeps_every_column_to_the_letter(choose, tmp_path):
    pool = tmp_path / "p.jsonl"
    pool.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    out, ranking = choose(pool, n_samples=N)
    lines = out.read_bytes().decode().removesuffix("\n").split("\n")
    for line, i, rank, gain in zip(lines, *ranking_columns(ranking), strict=True):
        assert line.startswith(LINES[i].strip()[:-1])
        added = [["fisher_rank", str(rank)], ["fisher_gain", repr(gain)]]
        got = [list(pair) for pair in exact(line)]
        assert got == [list(pair) for pair in exact(LINES[i])] + added


def ranking_columns(ranking):
    return ranking["index"], ranking["rank"], ranking["gain"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "end", "two ends"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_byte_order_marks_are_no_part_of_a_row(end, last, mark, tmp_path):
    texts = ["é b", "", "c\u2028d"]
    ends = {"": "", "end": end, "two ends": 2 * end}[last]
    for name, lines in (("p.jsonl", [json.dumps({"text": t}) for t in texts]), ("p.txt", texts)):
        pool = tmp_path / name
        pool.write_bytes(mark + (end.join(lines) + ends).encode())
        file = read_pool(pool)
        assert file.rows == [Example(text) for text in texts]
        assert file.content.lines == lines
        assert file.where(2) == f"{pool}, line 3"


def test_a_windows_file_is_chosen_from_like_any_other(choose, tmp_path):
    rows = [f'{{"text": "row {i}"}}' for i in range(N)]
    plain, windows = tmp_path / "plain.jsonl", tmp_path / "windows.jsonl"
    plain.write_bytes("\n".join([*rows, ""]).encode())
    windows.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(rows).encode())
    written = [choose(pool, f"from-{pool.name}")[0].read_bytes() for pool in (plain, windows)]
    assert written[0] == written[1]
    assert written[0].startswith(b'{"text": "row ') and written[0].count(b"\n") == K


def table_of_many_types():
    day = datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC)
    columns = [
        (pa.field("id", pa.uint64(), nullable=False), range(2**64 - N, 2**64)),
        (pa.field("small", pa.int8()), [None, *range(N - 1)]),
        (pa.field("half", pa.float32()), [0.1 * i for i in range(N)]),
        (pa.field("price", pa.decimal128(9, 2)), [decimal.Decimal(i) / 4 for i in range(N)]),
        (pa.field("at", pa.timestamp("us", "UTC")), [day.replace(month=i + 1) for i in range(N)]),
        (pa.field("tags", pa.list_(pa.string())), [["a"] * i for i in range(N)]),
        (
            pa.field("meta", pa.struct([("a", pa.int16()), ("b", pa.bool_())])),
            [{"a": i, "b": None} for i in range(N)],
        ),
        (pa.field("kind", pa.dictionary(pa.int32(), pa.string())), ["x", "y"] * (N // 2)),
        (pa.field("text", pa.large_string(), metadata={"unit": "row"}), list("abcdefgh")),
    ]
    schema = pa.schema([field for field, _ in columns], metadata={"license": "CC0"})
    arrays = [pa.array(list(values), field.type) for field, values in columns]
    return pa.Table.from_arrays(arrays, schema=schema)


def test_parquet_keeps_schema_and_values(choose, tmp_path):
    pool = tmp_path / "p.parquet"
    pq.write_table(table_of_many_types(), pool, row_group_size=3)
    out, ranking = choose(pool, "chosen.parquet")
    before, after = pq.read_table(pool), pq.read_table(out)
    assert after.schema.names[-2:] == ["fisher_rank", "fisher_gain"]
    assert after.column("fisher_rank").to_pylist() == ranking["rank"]
    assert after.column("fisher_gain").to_pylist() == ranking["gain"]
    kept = after.drop_columns(["fisher_rank", "fisher_gain"])
    assert kept.schema.equals(before.schema, check_metadata=True)
    assert kept.to_pylist() == before.take(ranking["index"]).to_pylist()


def test_parquet_with_bytes_stays_parquet(choose, tmp_path):
    pool = tmp_path / "p.parquet"
    pq.write_table(pa.table({"x": [bytes([i, 255]) for i in range(N)]}), pool)
    out, ranking = choose(pool, "chosen.parquet")
    assert pq.read_table(out).column("x").to_pylist() == [bytes([i, 255]) for i in ranking["index"]]


VIEW = pa.string_view()
VIEWS = [
    (VIEW, lambda word: word),
    (pa.list_(VIEW), lambda word: [word]),
    (pa.large_list(VIEW), lambda word: [word, None]),
    (pa.list_(VIEW, 2), lambda word: [word, "b"]),
    (pa.struct([("a", pa.list_(VIEW)), ("n", pa.int8())]), lambda word: {"a": [word], "n": 1}),
    (pa.map_(VIEW, VIEW), lambda word: [("a", word)]),
]


@pytest.mark.parametrize(("kind", "value"), VIEWS, ids=[str(kind) for kind, _ in VIEWS])
def test_parquet_with_views_gives_plain_columns(kind, value, choose, tmp_path):
    pool, values = tmp_path / "p.parquet", [value(f"row {i}") for i in range(N)]
    pq.write_table(pa.table({"x": pa.array(values, kind)}), pool)
    out, ranking = choose(pool, "chosen.parquet")
    expected = [values[i] for i in ranking["index"]]
    assert pq.read_table(out).column("x").to_pylist() == expected
    out, _ = choose(pool, "chosen.jsonl")
    as_json = json.loads(json.dumps(expected))
    assert [json.loads(line)["x"] for line in out.read_text().splitlines()] == as_json


def test_parquet_with_times_that_python_lacks_stays_parquet(choose, tmp_path):
    pool = tmp_path / "p.parquet"
    times = pa.array([2**50 + i for i in range(N)], pa.timestamp("ms"))  # in 35,000 years
    pq.write_table(pa.table({"at": times}), pool)
    out, ranking = choose(pool, "chosen.parquet")
    assert (
        pq.read_table(out)
        .column("at")
        .equals(pa.chunked_array([times.take(pa.array(ranking["index"]))]))
    )
    with pytest.raises(AssertionError, match=r"can't hold .*write a \.parquet instead"):
        choose(pool, "chosen.jsonl")


def test_parquet_to_jsonl(choose, tmp_path):
    pool = tmp_path / "p.parquet"
    pq.write_table(table_of_many_types(), pool)
    out, ranking = choose(pool)
    lines = out.read_text(encoding="utf-8").splitlines()
    for line, i, rank, gain in zip(lines, *ranking_columns(ranking), strict=True):
        assert json.loads(line) == {
            "id": 2**64 - N + i,
            "small": None if i == 0 else i - 1,
            "half": float(np.float32(0.1 * i)),
            "price": f"{i / 4:.2f}",
            "at": f"2024-{i + 1:02}-29 12:00:00+00:00",
            "tags": ["a"] * i,
            "meta": {"a": i, "b": None},
            "kind": "xy"[i % 2],
            "text": "abcdefgh"[i],
            "fisher_rank": rank,
            "fisher_gain": gain,
        }


def test_jsonl_to_parquet_with_differing_keys(choose, tmp_path):
    rows = [{"a": i, "é": [str(i)]} if i % 2 else {"b": {"c": i / 2}, "a": i} for i in range(N)]
    pool = tmp_path / "p.jsonl"
    pool.write_text("\n".join(json.dumps(row) for row in rows))
    out, ranking = choose(pool, "chosen.parquet", n_samples=N)
    columns = pq.read_table(out).to_pydict()
    assert set(columns) == {"a", "b", "é", "fisher_rank", "fisher_gain"}
    for name in ("a", "b", "é"):
        assert columns[name] == [rows[i].get(name) for i in ranking["index"]]
    assert columns["fisher_rank"] == ranking["rank"]
    assert columns["fisher_gain"] == ranking["gain"]


def test_the_types_of_columns_do_not_depend_on_the_choice(choose, tmp_path):
    """All rows decide them: of half of the rows no `meta` has a field and no `b` is there."""
    pool = tmp_path / "p.jsonl"
    rows = [{"meta": {}, "x": 1} for _ in range(N - 1)] + [{"meta": {"k": 1}, "x": 0.5, "b": "c"}]
    pool.write_text("\n".join(map(json.dumps, rows)))
    out, ranking = choose(pool, "chosen.parquet", n_samples=3)
    assert N - 1 not in ranking["index"]
    assert pq.read_table(out).slice(0, 1).to_pylist()[0] | {"fisher_gain": 0} == {
        "meta": {"k": None}, "x": 1.0, "b": None, "fisher_rank": 0, "fisher_gain": 0,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["chosen.jsonl", "chosen.parquet"])
def test_text_becomes_a_column(name, choose, tmp_path):
    texts = ['say "é"', "", "\ttab", "\\", "{}", "\u2028", "</script>", "z"]
    pool = tmp_path / "p.txt"
    pool.write_text("\n".join(texts) + "\n", encoding="utf-8")
    out, ranking = choose(pool, name, n_samples=N)
    if out.suffix == ".jsonl":
        rows = [json.loads(line) for line in out.read_bytes().decode().split("\n")[:-1]]
    else:
        rows = pq.read_table(out).to_pylist()
    assert rows == [
        {"text": texts[i], "fisher_rank": rank, "fisher_gain": gain}
        for i, rank, gain in zip(*ranking_columns(ranking), strict=True)
    ]


def test_no_pool_to_parquet(tmp_path, choose):
    pool = tmp_path / "p.txt"
    pool.write_text("\n".join("abcdefgh"))
    _, ranking = choose(pool)
    argv = [
        "--embeddings",
        tmp_path / "emb.safetensors",
        "-o",
        tmp_path / "rows.parquet",
        "--n-samples",
        K,
    ]
    assert main([str(word) for word in argv]) == 0
    table = pq.read_table(tmp_path / "rows.parquet")
    assert table.to_pydict() == {
        "index": ranking["index"],
        "fisher_rank": ranking["rank"],
        "fisher_gain": ranking["gain"],
    }


def test_text_columns(tmp_path):
    pool = tmp_path / "p.jsonl"
    row = {"text": "t", "prompt": "p", "completion": "c", "body": "b"}
    pool.write_text(json.dumps(row))
    assert read_pool(pool).rows == [Example("t")]
    assert read_pool(pool, Columns(text="body")).rows == [Example("b")]
    del row["text"]
    pool.write_text(json.dumps(row))
    assert read_pool(pool).rows == [Example("c", "p")]
    assert read_pool(pool).preview(0) == "p → c"
    assert read_pool(pool, Columns(text="prompt")).rows == [Example("p")]
    table = tmp_path / "p.parquet"
    pq.write_table(pa.table({name: [value] for name, value in row.items()}), table)
    assert read_pool(table).rows == [Example("c", "p")]
    assert read_pool(table).where(0) == f"{table}, row 0"


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ({"text": "t", "source": "s"}, "t"),
        ({"question": "q", "answer": "a"}, "user: q\nassistant: a"),
        ({"body": "b", "source": 1}, "body: b\nsource: 1"),
        ({"text": 3}, "text: 3"),
    ],
)
def test_rows_that_need_no_text_are_shown_by_what_they_say(tmp_path, row, shown):
    pool = tmp_path / "p.jsonl"
    pool.write_text(json.dumps(row))
    assert read_pool(pool, needs_text=False).preview(0) == shown


def test_a_date_that_python_has_no_value_for_spoils_no_other_column(tmp_path):
    pool = tmp_path / "p.parquet"
    days = pa.array([1, 10**7], pa.int32()).cast(pa.date32())
    pq.write_table(pa.table({"text": ["t", "u"], "day": days, "source": ["a", "b"]}), pool)
    file = read_pool(pool)
    assert file.column("source", [0, 1]) == ["a", "b"]
    with pytest.raises(PoolError, match=r"p\.parquet: column 'day' can't be read"):
        file.column("day", [0, 1])
    assert read_pool(pool, needs_text=False).preview(1) == f"{pool}, row 1"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_embeddings_keep_their_precision(dtype, tmp_path):
    tokens = np.random.default_rng(0).standard_normal((4, 2)).astype(dtype)
    path = tmp_path / "emb.safetensors"
    save_file({"tokens": tokens, "offsets": np.array([0, 1, 4], np.int32)}, path)
    emb = read_embeddings(path)
    assert emb.tokens.dtype == dtype
    np.testing.assert_array_equal(emb.tokens, tokens)
    np.testing.assert_array_equal(emb.offsets, [0, 1, 4])


# Files are replaced whole or not at all


def test_replacing_takes_the_place_only_at_the_end(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("earlier")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path  # a rename within one file system
        assert path.read_text() == "earlier"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("earlier", [None, "earlier"])
def test_replacing_leaves_nothing_when_it_fails(error, earlier, tmp_path):
    path = tmp_path / "a.txt"
    if earlier:
        path.write_text(earlier)
    with pytest.raises(error), replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert [p.read_text() for p in tmp_path.iterdir()] == ([earlier] if earlier else [])


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_replacing_gives_the_permissions_of_any_new_file(mask, tmp_path):
    before = os.umask(mask)
    try:
        with replacing(tmp_path / "a.txt") as temporary:
            temporary.write_text("new")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("name", ["report", "new/report"])
def test_replacing_files_makes_the_folder_only_at_the_end(name, tmp_path):
    folder = tmp_path / name
    with replacing_files(folder) as temporary:
        (temporary / "a.txt").write_text("new")
        assert not folder.exists()
    assert (folder / "a.txt").read_text() == "new"
    with replacing_files(folder) as temporary:
        (temporary / "b.txt").write_text("second")
    assert sorted(p.name for p in tmp_path.rglob("*.*")) == ["a.txt", "b.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("earlier", [None, "earlier"])
def test_replacing_files_leaves_nothing_when_it_fails(error, earlier, tmp_path):
    path = tmp_path / "report" / "a.txt"
    if earlier:
        path.parent.mkdir()
        path.write_text(earlier)
    with pytest.raises(error), replacing_files(path.parent) as temporary:
        (temporary / "a.txt").write_text("half")
        raise error
    assert list(tmp_path.rglob("*")) == ([path.parent, path] if earlier else [])
    assert not earlier or path.read_text() == earlier


@pytest.mark.parametrize("refused", [OSError, KeyboardInterrupt])
def test_replacing_files_takes_back_what_it_moved_before_a_failure(refused, tmp_path, monkeypatch):
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "a.txt").write_text("earlier")
    (folder / "other.txt").write_text("other")
    before = {p: p.read_bytes() for p in folder.iterdir()}
    replace, rename = Path.replace, Path.rename

    def failing(path, target):
        if path.name == "c.txt":
            raise refused
        return replace(path, target)

    def failing_whole(path, target):
        if target.name == "report":
            raise refused
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", failing)
    monkeypatch.setattr(Path, "rename", failing_whole)
    for place in (folder, tmp_path / "new" / "report"):
        with pytest.raises(refused), replacing_files(place) as temporary:
            for name in "abc":
                (temporary / f"{name}.txt").write_text("new")
    assert {p: p.read_bytes() for p in folder.iterdir()} == before
    assert [*tmp_path.iterdir()] == [folder]


def test_replacing_files_leaves_folders_alone(tmp_path):
    (tmp_path / "report" / "b.txt").mkdir(parents=True)
    with pytest.raises(IsADirectoryError), replacing_files(tmp_path / "report") as temporary:
        for name in "ab":
            (temporary / f"{name}.txt").write_text("new")
    assert [*tmp_path.rglob("*")] == [tmp_path / "report", tmp_path / "report" / "b.txt"]
