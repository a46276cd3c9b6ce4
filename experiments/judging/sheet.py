"""A judge's check by people: blinded pairs to rate, their answers, and the agreement."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from sklearn.metrics import cohen_kappa_score

from experiments.judging.judge import Pair, Winner
from fisher_jax.util.errors import UserError
from fisher_jax.util.files import replacing, replacing_files

COLUMNS = ("id", "prompt", "text1", "text2", "answer")
ANSWERS = ("1", "2", "tie")
_FORMULA = tuple("=+-@＝＋－＠")  # what spreadsheets may take for the beginning of a formula


class Sheet(NamedTuple):
    """What `write_sheet` wrote: two forms of the same sheet for the rater, and the key."""

    csv: Path
    html: Path
    key: Path


class Kappa(NamedTuple):
    """Agreement of two raters.

    Attributes:
        kappa: Cohen's, at most 1; 0 is what chance gives, NaN where both give one answer only.
        agreement: share of pairs with the same winner.
        n_pairs: rated by both.
    """

    kappa: float
    agreement: float
    n_pairs: int


def write_sheet(
    pairs: Sequence[Pair],
    folder: Path,
    seed: int,
    methods: tuple[str, str] = ("A", "B"),
    about: str = "",
) -> Sheet:
    """FOLDER/sheet.csv and sheet.html to rate, and FOLDER.key.json, which stays with the author.

    Pairs come in random order, and either text may stand first. The CSV has the columns id,
    prompt, text1, text2 and an empty answer, to be filled with 1, 2 or tie; the page asks the
    same and makes a CSV of the answers in the browser. Cells that a spreadsheet could take for a
    formula (=, +, -, @, tab or line break first) begin with an apostrophe; `read_answers` doesn't
    read texts, so nothing has to undo it.

    Args:
        pairs: continuations by method A and method B.
        folder: to hand out; made if need be.
        seed: of the order of pairs and of texts.
        methods: the names of A and B, for the key.
        about: kept in the key, to find the pairs again.

    Raises:
        ValueError: no pairs, methods of the same name, or files of that name exist.
    """
    sheet = Sheet(
        folder / "sheet.csv", folder / "sheet.html", folder.with_name(f"{folder.name}.key.json")
    )
    if not pairs or methods[0] == methods[1]:
        raise UserError(
            f"a sheet needs pairs of two methods, got {len(pairs)} pairs and methods {methods}"
        )
    for path in sheet:
        if path.exists():
            raise UserError(f"{path} exists and may hold answers: name another folder")
    rng = np.random.default_rng(seed)
    order, a_first = rng.permutation(len(pairs)).tolist(), rng.integers(2, size=len(pairs)) == 1
    rows, key = [], {}
    for number, i in enumerate(order, start=1):
        a, b = ((pairs[i].a, methods[0]), (pairs[i].b, methods[1]))
        (text1, method1), (text2, method2) = (a, b) if a_first[i] else (b, a)
        name = f"p{number}"
        rows.append(dict(zip(COLUMNS, (name, pairs[i].prompt, text1, text2, ""), strict=True)))
        key[name] = {"pair": i, "text1": method1, "text2": method2}
    contents = {"methods": list(methods), "about": about, "seed": seed, "pairs": key}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(sheet.key) as temporary_key, replacing_files(folder) as temporary:
        temporary_key.write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")
        (temporary / "sheet.csv").write_bytes(_as_csv(rows).encode("utf-8-sig", "backslashreplace"))
        (temporary / "sheet.html").write_bytes(_as_page(rows).encode("utf-8", "backslashreplace"))
    return sheet


def read_answers(path: Path, key: Path) -> dict[int, Winner]:
    """Winner by index of the pair: "a", "b" or "tie". Rows without an answer are left out.

    Args:
        path: the filled sheet.csv, or the page's CSV; columns other than id and answer aren't read.
        key: the key file of the same sheet.

    Raises:
        ValueError: a file that isn't one of `write_sheet`, or an id or an answer that is unknown
            or repeated; file and line are named.
    """
    methods, _, places = _read_key(key)
    winners: dict[int, Winner] = {}
    seen: dict[str, int] = {}
    for line, row in _read_csv(path):
        where, name = f"{path}, line {line}", row.get("id", "").strip()
        answer = row.get("answer", "").strip().lower()
        if name not in places:
            raise UserError(f"{where}: id {name!r} is not in {key}: use the key of this sheet")
        if name in seen:
            raise UserError(
                f"{where}: id {name!r} was in line {seen[name]} already: leave one of them"
            )
        seen[name] = line
        if answer and answer not in ANSWERS:
            raise UserError(
                f"{where}: the answer must be {', '.join(ANSWERS)} or empty, got {answer!r}"
            )
        if answer == "tie":
            winners[places[name]["pair"]] = "tie"
        elif answer:
            winners[places[name]["pair"]] = (
                "a" if places[name][f"text{answer}"] == methods[0] else "b"
            )
    return winners


def about_sheet(key: Path) -> str:
    """What `write_sheet` was told that the sheet is about.

    Raises:
        ValueError: a file that isn't a key of `write_sheet`.
    """
    return _read_key(key)[1]


def cohen_kappa(a: Mapping[int, Winner], b: Mapping[int, Winner]) -> Kappa:
    """Cohen's kappa `(p_o - p_e) / (1 - p_e)` of two raters on the pairs that both rated.

    Args:
        a: winner by index of the pair, as `read_answers` and `judge.winners` give them.
        b: the other rater's; "tie" is a category of its own.

    Raises:
        ValueError: no common pairs.
    """
    common = sorted(set(a) & set(b))
    if not common:
        raise UserError(
            f"the raters have no pair in common ({len(a)} and {len(b)} rated): have both rate the "
            "same pairs"
        )
    left, right = [a[i] for i in common], [b[i] for i in common]
    agreement = sum(x == y for x, y in zip(left, right, strict=True)) / len(common)
    if len({*left, *right}) == 1:
        return Kappa(math.nan, agreement, len(common))
    return Kappa(float(cohen_kappa_score(left, right)), agreement, len(common))


def _as_csv(rows: Sequence[Mapping[str, str]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS)
    writer.writerows([_inert(row[name]) for name in COLUMNS] for row in rows)
    return buffer.getvalue()


def _inert(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    risky = cell.startswith(("\t", "\r", "\n")) or cell.lstrip().startswith(_FORMULA)
    return "'" + cell if risky else cell


def _as_page(rows: Sequence[Mapping[str, str]]) -> str:
    loader = jinja2.PackageLoader("experiments.judging", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True)
    return environment.get_template("sheet.html.j2").render(rows=rows)


def _read_csv(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Rows with the number of the line that each begins in."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            if not {"id", "answer"} <= set(header):
                raise UserError(
                    f"{path}, line 1: the columns must include id and answer, separated by commas, "
                    f"got {', '.join(header) or 'none'}"
                )
            rows, line = [], reader.line_num + 1
            for cells in reader:
                if cells:
                    rows.append((line, dict(zip(header, cells, strict=False))))
                line = reader.line_num + 1
            return rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} can't be read as CSV in UTF-8 ({error})") from None


def _read_key(path: Path) -> tuple[list[str], str, dict[str, dict[str, Any]]]:
    try:
        key = json.loads(path.read_text(encoding="utf-8"))
        methods, places = key["methods"], key["pairs"]
        for place in places.values():
            if sorted([place["text1"], place["text2"]]) != sorted(methods):
                raise UserError("a pair has other methods")
            if type(place["pair"]) is not int:
                raise UserError("a pair has no number")
        return methods, str(key.get("about", "")), places
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is not the key of a sheet ({error}): name the .key.json beside its folder"
        ) from None
