"""Mutations: damaged files of every kind are read, or refused in one line.

Each block of inputs is read by a process of its own, which may be aborted, hang or run out of
memory: `python -m faults.mutations KIND SEED BEGIN END FOLDER` tells of each input on stdout.
"""

import contextlib
import itertools
import json
import re
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from faults.case import Case, Trial, shuffled
from faults.mutator import damaged, damaged_json
from faults.processes import PATIENCE, started

EDGES = (0, 250, *range(2500, 12501, 2500))  # of the blocks of each kind
SECONDS = 60  # after which reading one input hangs, on a busy machine too
MEMORY = 8 << 30  # bytes of a reader


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


def cases(seed: int) -> Iterator[Case]:
    """Blocks of every kind, in turn."""
    with tempfile.TemporaryDirectory(prefix="faults") as work:
        for block in itertools.pairwise(EDGES):
            for name in KINDS:

                def run(trial: Trial, name: str = name, block: tuple[int, int] = block) -> None:
                    read_block(trial, name, seed, *block, Path(work))

                yield Case(name, f"{name} {block[0]} to {block[1] - 1}", run)


def read_block(trial: Trial, name: str, seed: int, begin: int, end: int, work: Path) -> None:
    """All inputs of a block; one that ends its reader is a fault, and the next ones go on."""
    while begin < end:
        folder = Path(tempfile.mkdtemp(dir=work))
        told = folder / "told"
        argv = ["-m", "faults.mutations", name, seed, begin, end, folder]
        with started(argv, work / "cache") as process:
            _, messages = process.communicate(timeout=PATIENCE + (end - begin) * SECONDS)
        lines = [json.loads(line) for line in told.read_text().splitlines()]
        trial.tried += len(lines)
        trial.faults += [f"input {i}: {fault}" for i, fault in lines if fault]
        begin += len(lines)
        if process.returncode == 0:
            return
        last = messages.decode(errors="replace")[-300:]
        trial.check(False, f"input {begin} ended its reader ({process.returncode}): {last}")
        begin += 1


def main() -> None:
    """A reader's work."""
    name, folder = sys.argv[1], Path(sys.argv[5])
    seed, begin, end = map(int, sys.argv[2:5])
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    kind, told, place = KINDS[name](), folder / "told", folder / "files"
    place.mkdir()
    kind.write(place)
    sound = {file: (place / file).read_bytes() for file in kind.damaged}
    kind.read(place)  # or nothing below means anything
    with told.open("w") as file:
        for i in range(begin, end):
            rng = shuffled(seed, f"{name} {i}")
            one = rng.choice(kind.damaged)
            change = damaged_json if one.endswith(".json") else damaged
            (place / one).write_bytes(change(sound[one], rng))
            file.write(json.dumps([i, fault_of(kind, place)]) + "\n")
            file.flush()
            (place / one).write_bytes(sound[one])


class HangsError(BaseException):
    """Reading takes too long."""


def _hangs(*_: object) -> None:
    raise HangsError


def fault_of(kind: Kind, place: Path) -> str | None:
    """What is wrong about how a damaged folder is read; None where it is read or told in a line."""
    from fisher_jax.util.errors import UserError

    signal.signal(signal.SIGALRM, _hangs)
    signal.alarm(SECONDS)
    try:
        kind.read(place)
    except UserError as error:
        told = str(error)
        wrong = None if "\n" not in told and str(place) in told else f"no line with a path: {told}"
        return wrong and wrong[:500]
    except HangsError:
        return f"hangs for {SECONDS} s"
    except BaseException as error:  # a panic of a library in Rust is no Exception
        at = error.__traceback__
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        where = f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}" if at is not None else ""
        return re.sub(r"\s+", " ", f"{type(error).__name__}: {error} ({where})")[:500]
    finally:
        signal.alarm(0)
    return None


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


def pools(name: str, files: dict[str, str]) -> Kind:
    """Pools of text files."""
    from fisher_jax.data.pool_file import read_pool

    def write(folder: Path) -> None:
        for file, content in files.items():
            (folder / file).write_text(content)

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
    return pools("pools, JSONL", files)


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
    return pools("pools, CSV and others", files)


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


KINDS: dict[str, Callable[[], Kind]] = {
    "embeddings": embeddings,
    "pools, JSONL": jsonl,
    "pools, CSV and others": other_text,
    "pools, Parquet": parquet,
    "a model's config": lambda: folder_of("a model's config", ["config.json"]),
    "a model's tokenizer": lambda: folder_of(
        "a model's tokenizer", ["tokenizer.json", "tokenizer_config.json"]
    ),
    "a model's weights": lambda: folder_of("a model's weights", ["model.safetensors"]),
    "GGUF": gguf,
    "transcripts": transcript,
    "sheets": sheet,
    "results": results,
}

if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        main()
