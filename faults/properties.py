"""Properties: selection against a float64 greedy, and files that are written and read again."""

import csv
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import hypothesis
import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from flax import nnx
from hypothesis import strategies as st

import fisher_jax as fj
from experiments.judging.judge import Pair
from experiments.judging.sheet import read_answers, write_sheet
from experiments.run.packed import pack, unpack
from experiments.run.results import Results, rounded
from faults.case import Case, Trial
from faults.commands import select
from fisher_jax.data.embedding_store import DTYPES, EmbeddingStore
from fisher_jax.design.embeddings_file import read_embeddings, write_embeddings
from fisher_jax.models import load_model
from fisher_jax.models.files.export import save_folder
from fisher_jax.scoring.endpoint import read_transcript
from tests.helpers.small_models import (
    Checkpoint,
    gpt2_checkpoint,
    llama_checkpoint,
    word_tokenizer_files,
)

SHAPES = [(8, 2, 3), (12, 5, 4), (6, 1, 8), (20, 3, 2), (16, 9, 6)]  # N, longest M, D
BUDGETS = (1, 3, 6)
EXAMPLES = 100  # of a case
CASES = 60
GAIN = {np.float32: 2e-4, np.float64: 1e-7}  # relative error of a gain
DIGITS_LOST = 2e-17  # and times the mean squared norm over the ridge: float64 itself
N = 30  # rows of a pool
CLOSE = {np.float32: 1e-5, np.float64: 1e-9}  # gains so near are ties

Text = st.text(st.characters(), max_size=30)  # half characters too: JSON has them
Json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | Text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(Text, inner, max_size=3),
    max_leaves=6,
)
Name = st.text("abcdefghij", min_size=1, max_size=6)
Clean = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
Number = st.floats(allow_nan=False, allow_infinity=False)
COLUMNS = [  # values of a table's column
    Clean,
    st.none() | Clean,
    st.integers(-(2**53), 2**53),
    Number,
    st.booleans(),
    st.lists(Clean, max_size=3),
    st.fixed_dictionaries({"role": Clean, "content": Clean}),
    st.lists(st.fixed_dictionaries({"role": Clean, "n": st.integers(0, 9)}), max_size=2),
]


def cases(seed: int) -> Iterator[Case]:
    """Selection at each shape and budget, and each format, in turn."""
    formats: list[tuple[str, Callable[[Trial, int], None]]] = [
        ("rows through the command", rows_return),
        ("transcripts", transcripts_return),
        ("sheets", sheets_return),
        ("results", results_return),
        ("results, Parquet", packed_results_return),
        ("embeddings", embeddings_return),
        ("models", models_return),
    ]
    for k in range(CASES):
        shape, budget = SHAPES[k % len(SHAPES)], BUDGETS[k // len(SHAPES) % len(BUDGETS)]
        yield Case(
            "selection, a float64 greedy",
            f"selection {k}: {shape}, {budget} rows",
            lambda trial, k=k, at=(shape, budget): selects(trial, seed + 1000 * k, *at),
        )
        kind, of_kind = formats[k % len(formats)]
        yield Case(
            f"written and read: {kind}",
            f"{kind} {k}",
            lambda trial, k=k, of_kind=of_kind: of_kind(trial, seed + 1000 * k),
        )


def falsify(trial: Trial, seed: int, examples: int, given: dict[str, st.SearchStrategy], test):
    """As many examples as there are; one fault, the smallest that hypothesis finds."""
    found = hypothesis.given(**given)(_counted(trial, test))
    found = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),  # pyright: ignore[reportArgumentType]
    )(hypothesis.seed(seed)(found))
    with trial.attempt(test.__name__):
        found()
    trial.tried -= 1  # every example has counted itself


def _counted(trial: Trial, test):
    def counted(**values):
        trial.tried += 1
        test(**values)

    return counted


def selects(trial: Trial, seed: int, shape: tuple[int, int, int], budget: int) -> None:
    """Every pick is a best one, every gain is right, lazy and naive are one."""
    n, longest, dim = shape
    tokens = budget * longest

    def picks_are_best(draw_seed, scale, ridge, dtype, method, by_tokens, copies, zeros, zipf):
        rng = np.random.default_rng(draw_seed)
        lengths = np.random.default_rng(0).integers(1, longest + 1, n)  # one compilation
        rows = [rng.standard_normal((m, dim)) * (1 + np.arange(dim)) ** -zipf for m in lengths]
        for _ in range(copies):
            one = rng.integers(n)
            same = np.flatnonzero(lengths == lengths[one])
            rows[rng.choice(same)] = rows[one]
        for i in rng.permutation(n)[:zeros]:
            rows[i] = np.zeros_like(rows[i])
        rows = [(x * scale).astype(dtype) for x in rows]
        squares = np.concatenate([x.ravel() for x in rows]).astype(np.float64) ** 2
        mean = squares.sum() / lengths.sum()
        try:
            emb = fj.TokenEmbeddings.from_list(rows)
            whole: dict[str, Any] = {"token_budget": tokens} if by_tokens else {"n_samples": budget}
            found = fj.select(emb, **whole, ridge=ridge * max(mean, 1e-300), method=method)
        except ValueError as error:
            hypothesis.assume("overflow" not in str(error) and mean > 0)
            raise
        ridge *= max(mean, 1e-300)
        check_sequence(rows, found, ridge, dtype, tokens if by_tokens else None)

    falsify(
        trial,
        seed,
        EXAMPLES,
        {
            "draw_seed": st.integers(0, 2**32 - 1),
            "scale": st.sampled_from([1e-30, 1e-15, 1.0, 1e15, 1e30])
            | st.floats(-30, 30).map(lambda p: 10.0**p),
            "ridge": st.floats(-12, 12).map(lambda p: 10.0**p),
            "dtype": st.sampled_from([np.float32, np.float64]),
            "method": st.sampled_from(["lazy", "naive"]),
            "by_tokens": st.booleans(),
            "copies": st.integers(0, n),
            "zeros": st.integers(0, n // 2),
            "zipf": st.floats(0, 2),
        },
        picks_are_best,
    )


def check_sequence(
    rows: list[np.ndarray],
    found: fj.Selection,
    ridge: float,
    dtype: type,
    token_budget: int | None = None,
) -> None:
    """Each pick has the largest gain that is left, a token if tokens are paid, or ties with it.

    Each gain is its own, and of equal rows the first comes first.
    """
    wide = [np.asarray(x, np.float64) / np.sqrt(ridge) for x in rows]  # f needs X / sqrt(ridge)
    squares = sum((x**2).sum() for x in wide) / sum(map(len, wide))  # over the ridge
    lost = DIGITS_LOST * squares
    costs = np.ones(len(rows)) if token_budget is None else np.array([len(x) for x in rows], float)
    dim = wide[0].shape[1]
    left = len(found.ranking) if token_budget is None else token_budget
    is_open = np.ones(len(rows), bool)
    chosen: list[int] = []
    for pick, gain in zip(found.ranking.tolist(), found.gains.tolist(), strict=True):
        assert is_open[pick] and costs[pick] <= left, f"row {pick} twice, or it does not fit"
        before = design_log_det([wide[i] for i in chosen], dim)
        gains = np.array([design_log_det([*(wide[i] for i in chosen), x], dim) for x in wide])
        gains -= before
        noise = 1e-13 * dim * max(1.0, before)  # of the reference
        worth = np.where(is_open & (costs <= left), gains / costs, -np.inf)
        assert worth[pick] >= worth.max() * (1 - CLOSE[dtype] - lost) - noise, (
            f"row {pick} is worth {worth[pick]}, row {worth.argmax()} {worth.max()}"
        )
        assert abs(gain - gains[pick]) <= (GAIN[dtype] + lost) * gains[pick] + noise, (
            f"row {pick}: gain {gain}, not {gains[pick]}"
        )
        earlier = [i for i in np.flatnonzero(is_open[:pick]) if np.array_equal(rows[i], rows[pick])]
        assert not earlier, f"row {pick} before its equal {earlier}"
        chosen.append(pick)
        is_open[pick] = False
        left -= costs[pick]
    assert token_budget is None or not (is_open & (costs <= left)).any(), "what fits was left"


def rows_return(trial: Trial, seed: int) -> None:
    """Every column of every row, whatever the pool's format, whatever the output's."""

    def rows_are_kept(pool, out, of_json, of_table, lines):
        if pool in ("p.txt", "p.csv", "p.tsv"):
            rows = [{"text": line} for line in lines]
            if pool != "p.txt":
                rows = [{**row, "other": line} for row, line in zip(rows, reversed(lines))]  # noqa: B905
        else:
            free = pool in ("p.jsonl", "p.json") and out in ("out.jsonl", "out.json")
            rows = of_json if free else of_table
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_pool(folder / pool, rows)
            fj_embeddings(folder / "emb.safetensors", [np.full((1, 2), i + 1.0) for i in range(N)])
            argv = [folder / pool, "--embeddings", folder / "emb.safetensors", "-o", folder / out]
            done = select(*argv, "--fraction", 1)
            assert done.code == 0, f"{pool} to {out}: {done.messages}"
            trial.tried += N - 1
            kept = [
                {k: v for k, v in row.items() if not k.startswith("fisher_")}
                for row in read_output(folder / out)
            ]
            lost = as_a_set(kept).symmetric_difference(as_a_set(rows))
            assert len(kept) == N and not lost, f"{pool} to {out}: {sorted(lost)[:4]}"

    pools = ["p.jsonl", "p.json", "p.txt", "p.csv", "p.tsv", "p.parquet", "p"]
    given = {
        "pool": st.sampled_from(pools),
        "out": st.sampled_from(["out.jsonl", "out.json", "out.parquet", "out"]),
        "of_json": lists(st.dictionaries(Name, Json, min_size=1, max_size=4)),
        "of_table": st.dictionaries(Name, st.sampled_from(COLUMNS), min_size=1, max_size=4).flatmap(
            lambda kinds: lists(st.fixed_dictionaries(kinds))
        ),
        "lines": lists(
            st.text(
                st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\0"), max_size=30
            ).map("a{}".format)
        ),
    }
    falsify(trial, seed, 8, given, rows_are_kept)


def lists(of: st.SearchStrategy) -> st.SearchStrategy[list]:
    """As many as there are embeddings."""
    return st.lists(of, min_size=N, max_size=N)


def as_a_set(rows: list[dict[str, Any]]) -> set[str]:
    """Rows, whatever their order and that of their columns."""
    return {json.dumps(row, sort_keys=True) for row in rows}


def write_pool(path: Path, rows: list[dict[str, Any]]) -> None:
    """In the format that the name tells; without an ending a folder of `datasets`."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".txt":
        path.write_bytes("".join(row["text"] + "\n" for row in rows).encode())
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix:
        with path.open("w", encoding="utf-8", newline="") as file:
            delimiter = "\t" if path.suffix == ".tsv" else ","
            writer = csv.DictWriter(file, [*rows[0]], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    else:
        datasets.Dataset.from_list(rows).save_to_disk(path)


def read_output(path: Path) -> list[dict[str, Any]]:
    """By the libraries that its users read it with."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_bytes().splitlines()]
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return datasets.Dataset.load_from_disk(str(path)).to_list()


def fj_embeddings(path: Path, rows: list[np.ndarray]) -> None:
    """Ready embeddings as users write them."""
    from safetensors.numpy import save_file

    tokens = np.concatenate(rows).astype(np.float32)
    save_file({"tokens": tokens, "offsets": np.cumsum([0, *map(len, rows)])}, path)


def transcripts_return(trial: Trial, seed: int) -> None:
    """Records of a transcript, also where the last line is cut anywhere."""

    def records_are_kept(answers, cut):
        lines = [
            json.dumps({"key": str(i), "answer": answer}, ensure_ascii=False).encode(
                "utf-8", "surrogatepass"
            )
            for i, answer in enumerate(answers)
        ]
        whole = b"".join(line + b"\n" for line in lines)
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "t.jsonl"
            path.write_bytes(whole)
            records, _ = read_transcript(path)
            assert [r["answer"] for r in records.values()] == answers
            path.write_bytes(whole[: -min(cut, len(lines[-1]))])
            records, _ = read_transcript(path)
            assert [r["answer"] for r in records.values()] in (answers, answers[:-1])

    falsify(
        trial,
        seed,
        500,
        {"answers": st.lists(Text, min_size=1, max_size=5), "cut": st.integers(1, 40)},
        records_are_kept,
    )


def sheets_return(trial: Trial, seed: int) -> None:
    """Answers on a sheet, whatever the texts hold."""

    def answers_are_kept(texts, answers, draw_seed):
        pairs = [Pair(p, a, b) for p, a, b in zip(texts[::3], texts[1::3], texts[2::3])]  # noqa: B905
        with tempfile.TemporaryDirectory() as name:
            sheet = write_sheet(pairs, Path(name) / "sheet", draw_seed)
            filled = Path(name) / "answers.csv"
            lines = [f"p{k + 1},{answers[k % len(answers)]}" for k in range(len(pairs))]
            filled.write_text("\n".join(["id,answer", *lines]))
            key = json.loads(sheet.key.read_text())["pairs"]
            expected = {}
            for k in range(len(pairs)):
                answer, place = answers[k % len(answers)], key[f"p{k + 1}"]
                won = "tie" if answer == "tie" else place[f"text{answer}"].lower()
                expected[place["pair"]] = won
            assert read_answers(filled, sheet.key) == expected
            assert set(read_answers(sheet.csv, sheet.key)) == set()

    falsify(
        trial,
        seed,
        60,
        {
            "texts": st.lists(Text, min_size=3, max_size=12),
            "answers": st.lists(st.sampled_from(["1", "2", "tie"]), min_size=1, max_size=4),
            "draw_seed": st.integers(0, 1000),
        },
        answers_are_kept,
    )


def results_return(trial: Trial, seed: int) -> None:
    """Rows of an experiment."""

    def rows_are_kept(values):
        rows = [{"setting": {"k": k}, "value": value} for k, value in enumerate(values)]
        with tempfile.TemporaryDirectory() as name:
            Results(Path(name), {"a": 1}, overwrite=False).add(rows)
            again = Results(Path(name), {"a": 1}, overwrite=False)
            assert json.dumps(again.rows) == json.dumps([rounded(row) for row in rows])
            assert all(again.has(row) for row in rows)

    falsify(trial, seed, 30, {"values": st.lists(Json, min_size=1, max_size=4)}, rows_are_kept)


def packed_results_return(trial: Trial, seed: int) -> None:
    """The same in Parquet."""

    def rows_are_kept(values, settings):
        rows = [
            {"setting": {"k": k, "of": of}} | {name: v for name, v in row.items() if v is not None}
            for k, (of, row) in enumerate(zip(settings, values, strict=False))
        ]
        rows = [rounded(row) for row in rows]
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "results.parquet"
            pack(rows, path, run="smoke")
            assert unpack(path) == rows, rows

    six_digits = st.floats(-1e30, 1e30, allow_nan=False).map(lambda x: 0.0 if abs(x) < 1e-30 else x)
    kinds = [Clean, st.none() | Clean, st.integers(-(2**53), 2**53), six_digits, st.booleans()]
    kinds += [st.lists(Clean, min_size=1, max_size=3)]
    given = {
        "values": st.dictionaries(
            Name.map("v_{}".format), st.sampled_from(kinds), max_size=4
        ).flatmap(lambda of: st.lists(st.fixed_dictionaries(of), min_size=1, max_size=5)),
        "settings": st.lists(st.sampled_from(["a", "b"]), min_size=5, max_size=5),
    }
    falsify(trial, seed, 60, given, rows_are_kept)


def embeddings_return(trial: Trial, seed: int) -> None:
    """Embeddings in one file, and in a store of several shards, in any order."""

    def tokens_are_kept(draw_seed, lengths, dim, scale, dtype, order):
        rng = np.random.default_rng(draw_seed)
        rows = [rng.standard_normal((m, dim)).astype(np.float32) * scale for m in lengths]
        emb = fj.TokenEmbeddings.from_list([x.astype(np.float32) for x in rows])
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "emb.safetensors"
            write_embeddings(emb, path)
            again = read_embeddings(path)
            assert np.array_equal(again.tokens, emb.tokens)
            assert np.array_equal(again.offsets, emb.offsets)
            keys = [bytes([k]) * 32 for k in range(len(rows))]
            cut = len(rows) // 2
            for some in (slice(0, cut), slice(cut, None)):
                if keys[some]:
                    part = fj.TokenEmbeddings.from_list(rows[some])
                    EmbeddingStore(Path(name) / "store", dtype).add(keys[some], part)
            order = [k for k in order if k < len(rows)] or [0]
            view = EmbeddingStore(Path(name) / "store").view([keys[k] for k in order]).in_memory()
            kept = np.concatenate([rows[k].astype(DTYPES[dtype]).astype(np.float32) for k in order])
            assert np.array_equal(view.tokens, kept), f"{dtype}, {order}"
            assert np.diff(view.offsets).tolist() == [lengths[k] for k in order]

    given = {
        "draw_seed": st.integers(0, 2**32 - 1),
        "lengths": st.lists(st.integers(1, 9), min_size=1, max_size=12),
        "dim": st.integers(1, 9),
        "scale": st.sampled_from([1e-3, 1.0, 100.0]).map(np.float32),
        "dtype": st.sampled_from([*DTYPES]),
        "order": st.lists(st.integers(0, 11), min_size=1, max_size=12, unique=True),
    }
    falsify(trial, seed, 40, given, tokens_are_kept)


def models_return(trial: Trial, seed: int) -> None:
    """A model of two families, saved and loaded: the same numbers, of the same type."""

    def weights_are_kept(draw_seed, scale, family, is_tied, dtype):
        config, weights = family(tie_word_embeddings=is_tied)
        rng = np.random.default_rng(draw_seed)
        weights = {
            name: (scale * rng.standard_normal(x.shape)).astype(np.float32)
            for name, x in weights.items()
        }
        with tempfile.TemporaryDirectory() as name:
            first, second = Path(name) / "first", Path(name) / "second"
            word_tokenizer_files(Checkpoint(config, weights).save(first))
            model = load_model(str(first), dtype=dtype)
            save_folder(model, second)
            again = load_model(str(second), dtype=dtype)
            assert again.module.config == model.module.config
            leaves = [jax.tree.leaves(nnx.state(m.module)) for m in (model, again)]
            for one, other in zip(*leaves, strict=True):
                assert one.dtype == other.dtype == dtype and np.array_equal(one, other)

    given = {
        "draw_seed": st.integers(0, 2**32 - 1),
        "scale": st.sampled_from([1e-6, 1.0, 1e4]),
        "family": st.sampled_from([llama_checkpoint, gpt2_checkpoint]),
        "is_tied": st.booleans(),
        "dtype": st.sampled_from(["float32", "bfloat16"]),
    }
    falsify(trial, seed, 8, given, weights_are_kept)


def design_log_det(rows: list[np.ndarray], dim: int) -> float:
    """`log det(I + sum X^T X)` by the triangular factor of I and the rows, one above the other.

    The matrix itself has the square of their condition, and loses 1e-5 of a gain at a ridge of
    1e-12.
    """
    factor = np.linalg.qr(np.concatenate([np.eye(dim), *rows]), mode="r")
    return 2 * float(np.sum(np.log(np.abs(np.diag(factor)))))
