"""Files that the suite damages: how sound ones are written, and how they are read."""

import contextlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Kind(NamedTuple):
    """Files to damage.

    Attributes:
        name: of the kind.
        write: puts sound ones into a folder.
        damaged: names of those that are damaged, one at a time.
        read: reads the folder.
    """

    name: str
    write: Callable[[Path], object]
    damaged: list[str]
    read: Callable[[Path], object]


def embeddings() -> Kind:
    """Ready embeddings."""
    from fisher_jax.design.embeddings_file import read_embeddings
    from tests.helpers.cli import write_embeddings

    return Kind(
        "embeddings",
        lambda folder: write_embeddings(folder / "emb.safetensors"),
        ["emb.safetensors"],
        lambda folder: read_embeddings(folder / "emb.safetensors"),
    )


def pools(name: str, files: dict[str, bytes]) -> Kind:
    """Pools that are files."""
    from fisher_jax.data.pool_file import read_pool

    def write(folder: Path) -> None:
        for file, content in files.items():
            (folder / file).write_bytes(content)

    def read(folder: Path) -> None:
        for file in sorted(files):
            content = read_pool(folder / file).content
            content.records(range(len(content)))

    return Kind(name, write, [*files], read)


def jsonl() -> Kind:
    """Rows of three shapes."""
    rows = [
        {"text": "to be or not", "n": 3, "nested": {"a": [1.5, None]}},
        {"text": "ünïcode \U0001f600", "n": None},
    ]
    chats = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    ]
    files = {
        f"{name}.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in some * 3)
        for name, some in (("rows", rows), ("chats", chats))
    }
    return pools("pools, JSONL", {name: text.encode() for name, text in files.items()})


def other_text() -> Kind:
    """Rows of CSV, TSV, a JSON array and plain text."""
    rows = [
        {"instruction": "say ü", "input": "", "output": 'a "b", c'},
        {"instruction": "no\nt", "output": "x"},
    ]
    files = {
        "pool.csv": 'text,n\n"to be, or\nnot",1\nü,\n',
        "pool.tsv": "question\tanswer\nto be\tor not\nno\tyes\n",
        "pool.json": json.dumps(rows + rows, ensure_ascii=False),
        "pool.txt": "to be\nor not\n\nü\n",
    }
    return pools("pools, CSV and others", {name: text.encode() for name, text in files.items()})


def compressed() -> Kind:
    """Rows of JSONL and CSV, compressed in four ways."""
    import bz2
    import gzip
    import lzma

    import pyarrow as pa

    lines = b'{"text": "to be"}\n{"text": "or not", "n": 1}\n' * 5
    table = b"text,n\nto be,1\nor not,2\n"
    files = {
        "pool.jsonl.gz": gzip.compress(lines, mtime=0),
        "pool.jsonl.bz2": bz2.compress(lines),
        "pool.jsonl.xz": lzma.compress(lines),
        "pool.csv.zst": pa.compress(table, "zstd", asbytes=True),
    }
    return pools("pools, compressed", files)


def saved_set() -> Kind:
    """A folder of the package datasets."""
    import datasets

    from fisher_jax.data.pool_file import read_pool

    rows = [{"text": "to be", "n": 1, "tags": ["a", "b"]}, {"text": "ü", "n": None, "tags": []}]

    def read(folder: Path) -> None:
        content = read_pool(folder / "set").content
        content.records(range(len(content)))

    return Kind(
        "pools, saved sets",
        lambda folder: datasets.Dataset.from_list(rows * 5).save_to_disk(folder / "set"),
        [
            f"set/{name}"
            for name in ("data-00000-of-00001.arrow", "state.json", "dataset_info.json")
        ],
        read,
    )


def manifest() -> Kind:
    """A run's manifest, as `--config` takes it."""
    from faults import inputs
    from faults.commands import select
    from fisher_jax.command.replay import arguments_of

    name = f"{inputs.OUT}.report/manifest.json"
    return Kind(
        "manifests",
        lambda folder: select(*inputs.of_ready(inputs.ready(folder))),
        [name],
        lambda folder: arguments_of(["--config", str(folder / name)]),
    )


def parquet() -> Kind:
    """A Parquet pool."""
    import datetime

    import pyarrow as pa
    import pyarrow.parquet as pq

    from fisher_jax.data.pool_file import read_pool
    from fisher_jax.util.errors import UserError

    day = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    table = pa.table(
        {
            "text": ["to be", "or not"] * 5,
            "when": [day] * 10,
            "list": [[1], None] * 5,
            "x": [1.5] * 10,
        }
    )

    def read(folder: Path) -> None:
        file = read_pool(folder / "pool.parquet")
        for name in table.column_names:
            with contextlib.suppress(UserError):
                file.column(name, range(10))
        for i in range(len(file)):
            file.preview(i)

    return Kind(
        "pools, Parquet",
        lambda folder: pq.write_table(table, folder / "pool.parquet"),
        ["pool.parquet"],
        read,
    )


def folder_of(name: str, files: list[str]) -> Kind:
    """A model's folder, some of whose files are damaged."""
    from fisher_jax.models import load_model
    from tests.helpers.cli import save_llama

    return Kind(
        name,
        lambda folder: save_llama(folder) and None,
        files,
        lambda folder: load_model(str(folder)),
    )


def sharded() -> Kind:
    """A model in two files of weights, and their index."""
    from safetensors.numpy import load_file, save_file

    from fisher_jax.models import load_model
    from tests.helpers.cli import save_llama

    index = "model.safetensors.index.json"
    parts = [f"model-0000{k}-of-00002.safetensors" for k in (1, 2)]

    def write(folder: Path) -> None:
        weights = load_file(save_llama(folder) / "model.safetensors")
        (folder / "model.safetensors").unlink()
        names = sorted(weights)
        where = {name: parts[k % 2] for k, name in enumerate(names)}
        for part in parts:
            save_file({name: weights[name] for name in names if where[name] == part}, folder / part)
        (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": where}))

    return Kind("a model's index", write, [index, *parts], lambda folder: load_model(str(folder)))


def gguf() -> Kind:
    """A GGUF with its tokenizer."""
    from fisher_jax.models import load_model
    from tests.helpers.gguf_files import byte_vocabulary, write_gguf
    from tests.helpers.small_models import llama_checkpoint

    def write(folder: Path) -> None:
        checkpoint = llama_checkpoint(attention_bias=False)
        write_gguf(folder / "m.gguf", checkpoint, vocabulary=byte_vocabulary(whole=_padding()))

    return Kind("GGUF", write, ["m.gguf"], lambda folder: load_model(str(folder / "m.gguf")))


def _padding() -> list[str]:
    """So many tokens as the model of `small_models` has labels."""
    return [f"<{k}>" for k in range(300 - 257)]


def transcript() -> Kind:
    """Kept answers of an endpoint."""
    from fisher_jax.scoring.endpoint import read_transcript

    lines = [{"key": str(i), "answer": f"a {i}", "top": {"a": -1.0}} for i in range(4)]
    return Kind(
        "transcripts",
        lambda folder: (folder / "t.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in lines)
        ),
        ["t.jsonl"],
        lambda folder: read_transcript(folder / "t.jsonl"),
    )


def sheet() -> Kind:
    """A filled sheet and its key."""
    from experiments.judging.judge import Pair
    from experiments.judging.sheet import read_answers, write_sheet

    def write(folder: Path) -> None:
        write_sheet([Pair("p", "a", "b"), Pair("p", "c", "d")], folder / "sheet", 0)
        (folder / "answers.csv").write_text("id,answer\np1,1\np2,tie\n")

    return Kind(
        "sheets",
        write,
        ["answers.csv", "sheet.key.json"],
        lambda folder: read_answers(folder / "answers.csv", folder / "sheet.key.json"),
    )


def results() -> Kind:
    """A folder of results."""
    from experiments.run.results import Results

    options = {"a": 1, "budgets": [4, 8], "grid": {"seed": [0]}}

    def open_folder(folder: Path) -> Results:
        return Results(
            folder,
            options,
            False,
            lambda row: [row["setting"], row["selector"]],
            ("budgets",),
        )

    def write(folder: Path) -> None:
        open_folder(folder).add([{"setting": {"seed": 0}, "selector": "fisher", "x": 0.5}] * 3)

    return Kind("results", write, ["results.jsonl", "config.yaml", "provenance.json"], open_folder)


def packed_results() -> Kind:
    """A run's rows in Parquet."""
    from experiments.run.packed import PACKED, pack, read_folder

    rows = [
        {"setting": {"seed": 0}, "selector": name, "n": n, "equal": "examples", "losses": [0.5, x]}
        for name in ("fisher", "uniform")
        for n, x in ((4, 0.25), (8, 1e-7))
    ]
    return Kind(
        "results, Parquet",
        lambda folder: pack(rows, folder / PACKED, run="smoke"),
        [PACKED],
        read_folder,
    )


def verdicts() -> Kind:
    """What judges found before."""
    from experiments.judging.main import JUDGED, read_entries

    of = {"setting": {}, "selector": "fisher", "against": "uniform", "equal": "tokens", "n": 4}
    entries = [
        {"judge": name, "naming": "ab", **of, "texts": "0" * 16, "won": 0.5}
        for name in ("likelihood", "endpoint")
    ]
    return Kind(
        "verdicts",
        lambda folder: (folder / JUDGED).write_text(json.dumps(entries)),
        [JUDGED],
        lambda folder: read_entries(folder / JUDGED),
    )


def answers() -> Kind:
    """What an endpoint answers."""
    import os

    from fisher_jax.scoring.endpoint import Endpoint
    from fisher_jax.util.errors import UserError
    from tests.helpers.endpoint_server import Server, likely

    os.environ["OPENAI_API_KEY"] = "sk-none"
    replies: list[bytes] = []
    server = Server(lambda n, body: (200, {}, replies.pop()))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def read(folder: Path) -> None:
        replies.append((folder / "reply.json").read_bytes())
        (folder / "t.jsonl").unlink(missing_ok=True)
        settings = {"logprobs": True, "top_logprobs": 2, "max_tokens": 1}
        asked = Endpoint("m", folder / "t.jsonl", server.url, max_retries=0, settings=settings)
        try:
            (record,) = asked.records(["yes or no?"])
            if record.get("top"):  # else it is asked again
                assert [*asked.records(["yes or no?"])] == [record], "what is kept is another"
        except UserError as error:
            if server.url not in str(error):
                raise
            raise UserError(f"{folder}: {error}") from None

    return Kind(
        "answers of an endpoint",
        lambda folder: (folder / "reply.json").write_text(
            json.dumps(likely({"yes": 0.75, "no": 0.25}))
        ),
        ["reply.json"],
        read,
    )


def word_vectors() -> Kind:
    """GloVe's and word2vec's files."""
    import numpy as np

    from experiments.softmax.word_vectors import read_vectors

    words, rng = ["to", "be", "ü"], np.random.default_rng(0)
    vectors = rng.standard_normal((3, 4)).astype("<f4")

    def write(folder: Path) -> None:
        lines = [f"{w} {' '.join(map(str, v))}" for w, v in zip(words, vectors, strict=True)]
        (folder / "glove.txt").write_text("\n".join(lines) + "\n")
        of_each = [w.encode() + b" " + v.tobytes() for w, v in zip(words, vectors, strict=True)]
        (folder / "word2vec.bin").write_bytes(b"3 4\n" + b"\n".join(of_each))

    def read(folder: Path) -> None:
        for name in ("glove.txt", "word2vec.bin"):
            found = read_vectors(str(folder / name), {*words})
            assert np.isfinite([*found.values()]).all()  # of one width

    return Kind("word vectors", write, ["glove.txt", "word2vec.bin"], read)


KINDS: dict[str, Callable[[], Kind]] = {
    "embeddings": embeddings,
    "pools, JSONL": jsonl,
    "pools, CSV and others": other_text,
    "pools, Parquet": parquet,
    "pools, compressed": compressed,
    "pools, saved sets": saved_set,
    "a model's config": lambda: folder_of("a model's config", ["config.json"]),
    "a model's tokenizer": lambda: folder_of(
        "a model's tokenizer", ["tokenizer.json", "tokenizer_config.json"]
    ),
    "a model's weights": lambda: folder_of("a model's weights", ["model.safetensors"]),
    "a model's index": sharded,
    "GGUF": gguf,
    "transcripts": transcript,
    "sheets": sheet,
    "results": results,
    "results, Parquet": packed_results,
    "verdicts": verdicts,
    "answers of an endpoint": answers,
    "manifests": manifest,
    "word vectors": word_vectors,
}
