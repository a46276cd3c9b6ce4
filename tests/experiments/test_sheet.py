"""Sheets for people: blinding, what spreadsheets and browsers make of texts, and agreement."""

import csv
import html.parser
import json

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from experiments.judging.judge import Answer, Pair, Verdict, winners
from experiments.judging.sheet import cohen_kappa, read_answers, write_sheet
from tests.helpers import browser

METHODS = ("fisher", "uniform")
AWKWARD = [
    Pair("=1+1", "+2", "-3"),
    Pair("@SUM(A1)\ud800", "\t=x", "\r\nline"),  # and half a character
    Pair(" =HYPERLINK()", "＝x", "'Tis nobler"),
    Pair("<script>alert(1)</script>", "</div></form>", "{{ 7*7 }}{% raw %}"),
    Pair('a "quoted", text', "two\nlines; =1", "é ← \u2028 &amp;"),
    Pair("", " plain", ""),
]
PAIRS = [*AWKWARD, *(Pair(f"prompt {i}", f"by A {i}", f"by B {i}") for i in range(30))]


def read_csv(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def shown(text):
    """With a number for half a character, which UTF-8 can't hold."""
    return text.encode("utf-8", "backslashreplace").decode()


def answer_all(sheet, answers):
    """The sheet filled in, as a rater would send it back."""
    rows = read_csv(sheet.csv)
    path = sheet.csv.with_name("filled.csv")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(row | {"answer": a} for row, a in zip(rows, answers, strict=True))
    return path


@pytest.fixture
def sheet(tmp_path):
    return write_sheet(PAIRS, tmp_path / "rater", 0, METHODS)


@pytest.fixture
def key(sheet):
    return json.loads(sheet.key.read_text(encoding="utf-8"))["pairs"]


# What is written


def test_every_pair_is_there_once_with_its_texts_in_the_keys_order(sheet, key):
    rows = read_csv(sheet.csv)
    assert list(rows[0]) == ["id", "prompt", "text1", "text2", "answer"]
    assert sorted(place["pair"] for place in key.values()) == list(range(len(PAIRS)))
    assert [row["id"] for row in rows] == list(key) == [f"p{i + 1}" for i in range(len(PAIRS))]
    for row in rows:
        place = key[row["id"]]
        pair = PAIRS[place["pair"]]
        by = dict(zip(METHODS, (pair.a, pair.b), strict=True))
        got = [row[column].removeprefix("'") for column in ("prompt", "text1", "text2")]
        expected = [shown(text) for text in (pair.prompt, by[place["text1"]], by[place["text2"]])]
        assert got == [text.removeprefix("'") for text in expected]
        assert row["answer"] == ""


def test_rows_and_texts_are_in_random_order(sheet, key, tmp_path):
    order = [place["pair"] for place in key.values()]
    assert order != sorted(order)
    a_first = [place["text1"] == METHODS[0] for place in key.values()]
    assert 0.25 < np.mean(a_first) < 0.75
    again = write_sheet(PAIRS, tmp_path / "again", 0, METHODS)
    assert again.csv.read_bytes() == sheet.csv.read_bytes()
    other = write_sheet(PAIRS, tmp_path / "other", 1, METHODS)
    assert other.csv.read_bytes() != sheet.csv.read_bytes()


def test_what_is_handed_out_names_no_method_and_holds_no_key(sheet):
    assert {path.name for path in sheet.csv.parent.iterdir()} == {"sheet.csv", "sheet.html"}
    assert sheet.key.parent == sheet.csv.parent.parent
    for path in (sheet.csv, sheet.html):
        assert not any(method in path.read_text(encoding="utf-8") for method in METHODS)


def test_no_cell_is_a_formula_and_harmless_ones_stay_as_they_are(sheet, key):
    rows = {key[row["id"]]["pair"]: row for row in read_csv(sheet.csv)}
    for row in rows.values():
        for cell in row.values():
            assert not cell.lstrip().startswith(tuple("=+-@＝＋－＠"))
            assert not cell.startswith(("\t", "\r", "\n"))
    texts = {rows[4][column] for column in ("prompt", "text1", "text2")}
    assert texts == set(AWKWARD[4])
    assert {rows[5][column] for column in ("prompt", "text1", "text2")} == set(AWKWARD[5])
    assert {rows[2]["text1"], rows[2]["text2"]} == {"'＝x", "'Tis nobler"}


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and the text inside each class of `div`."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.texts, self.open = [], {}, []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag == "div":
            self.open.append(attributes.get("class"))
            self.texts.setdefault(self.open[-1], []).append("")

    def handle_endtag(self, tag):
        if tag == "div":
            self.open.pop()

    def handle_data(self, data):
        if self.open:
            self.texts[self.open[-1]][-1] += data


def test_the_page_shows_every_text_as_text(sheet, key):
    page = Page(sheet.html)
    pairs = [PAIRS[place["pair"]] for place in key.values()]
    a_first = [place["text1"] == METHODS[0] for place in key.values()]
    expected = [
        text
        for pair, first in zip(pairs, a_first, strict=True)
        for text in ((pair.a, pair.b) if first else (pair.b, pair.a))
    ]

    def lines(texts):  # a browser and a file in text mode have one kind of line end
        return [shown(text).replace("\r\n", "\n").replace("\r", "\n") for text in texts]

    assert page.texts["prompt"] == lines([pair.prompt for pair in pairs])
    assert page.texts["text"] == lines(expected)
    assert [tag for tag, _ in page.tags].count("script") == 1  # its own


def test_the_page_needs_no_other_file(sheet):
    for tag, attributes in Page(sheet.html).tags:
        assert not set(attributes) & {"src", "href", "srcset", "action", "onload"}
        assert tag not in ("link", "iframe", "object", "base", "img")


def test_every_text_runs_in_its_own_direction(sheet):
    divs = [attributes for tag, attributes in Page(sheet.html).tags if tag == "div"]
    of_texts = [own for own in divs if own.get("class") in ("prompt", "text")]
    assert len(of_texts) == 3 * len(PAIRS) and all(own.get("dir") == "auto" for own in of_texts)


def test_the_page_asks_1_2_or_tie_of_every_pair(sheet, key):
    inputs = [a for tag, a in Page(sheet.html).tags if tag == "input"]
    assert {(a["name"], a["value"]) for a in inputs} == {
        (name, value) for name in key for value in ("1", "2", "tie")
    }
    assert {a["type"] for a in inputs} == {"radio"}


@pytest.mark.skipif(not browser.IS_HERE, reason=browser.NEEDS)
@pytest.mark.parametrize("width", [500, 1200])
def test_the_pages_answers_can_be_read(sheet, key, tmp_path, width):
    with browser.opened(sheet.html, width) as (page, did):
        for name, answer in {"p1": "1", "p2": "2", "p4": "tie"}.items():
            page.check(f"input[name={name}][value='{answer}']")
        assert page.inner_text("#count") == f"3 of {len(PAIRS)} answered"
        assert page.evaluate("document.documentElement.scrollWidth") == width
        with page.expect_download() as download:
            page.click("#download")
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
    assert did == [] and path.name == "answers.csv"
    assert read_answers(path, sheet.key) == {
        key["p1"]["pair"]: "a" if key["p1"]["text1"] == METHODS[0] else "b",
        key["p2"]["pair"]: "a" if key["p2"]["text2"] == METHODS[0] else "b",
        key["p4"]["pair"]: "tie",
    }


@pytest.mark.parametrize(("pairs", "methods"), [([], METHODS), (PAIRS, ("fisher", "fisher"))])
def test_no_pairs_or_no_two_methods_are_refused(tmp_path, pairs, methods):
    with pytest.raises(ValueError, match="a sheet needs pairs of two methods"):
        write_sheet(pairs, tmp_path / "rater", 0, methods)


@pytest.mark.parametrize("name", ["csv", "html", "key"])
def test_a_sheet_that_may_hold_answers_is_left_alone(tmp_path, sheet, name):
    for other in {"csv", "html", "key"} - {name}:
        getattr(sheet, other).unlink()
    with pytest.raises(ValueError, match="exists and may hold answers: name another folder"):
        write_sheet(PAIRS, tmp_path / "rater", 1, METHODS)


def test_a_folder_that_cannot_be_written_leaves_no_key_and_blocks_no_second_try(tmp_path):
    folder = tmp_path / "rater"
    folder.write_text("in the way")
    with pytest.raises(OSError, match="rater"):
        write_sheet(PAIRS, folder, 0, METHODS)
    assert [*tmp_path.iterdir()] == [folder]
    folder.unlink()
    assert all(path.exists() for path in write_sheet(PAIRS, folder, 0, METHODS))


# What comes back


def test_answers_are_told_by_method(sheet, key):
    answers = ["1", " 2 ", "TIE", ""] * (len(PAIRS) // 4)
    got = read_answers(answer_all(sheet, answers), sheet.key)
    assert len(got) == 3 * len(PAIRS) // 4
    for place, answer in zip(key.values(), answers, strict=True):
        text = {"1": "text1", "2": "text2"}.get(answer.strip())
        expected = "tie" if answer == "TIE" else answer and "ab"[METHODS.index(place[text])]
        assert got.get(place["pair"], "") == expected


def test_a_rater_who_always_knows_a_is_read_so(sheet, key):
    answers = ["1" if place["text1"] == METHODS[0] else "2" for place in key.values()]
    got = read_answers(answer_all(sheet, answers), sheet.key)
    assert got == dict.fromkeys(range(len(PAIRS)), "a")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,answer\np1,1\np99,2\n", r"line 3: id 'p99' is not in .*rater.key.json"),
        ("id,answer\np1,1\n\np2,3\n", r"line 4: the answer must be 1, 2, tie or empty, got '3'"),
        ("id,answer\np1,1\np2,\np1,2\n", r"line 4: id 'p1' was in line 2 already"),
        ('id,prompt,answer\np1,"two\nlines",1\np2,x,both\n', r"line 4: the answer .* got 'both'"),
        ("id;answer\np1;1\n", r"line 1: the columns must include id and answer, separated by com"),
        ("", r"line 1: the columns must include id and answer.* got none"),
        ('id,answer\np1,"1\n', r"can't be read as CSV"),
    ],
)
def test_what_can_not_be_read_is_named_by_line(sheet, tmp_path, content, message):
    path = tmp_path / "answers.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"answers.csv.* ?{message}"):
        read_answers(path, sheet.key)


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        "[]",
        '{"methods": ["a", "b"]}',
        '{"methods": ["a", "b"], "pairs": {"p1": {"pair": 0, "text1": "a", "text2": "c"}}}',
        '{"methods": ["a", "b"], "pairs": {"p1": {"pair": "0", "text1": "a", "text2": "b"}}}',
        None,
    ],
)
def test_another_file_is_no_key(sheet, tmp_path, content):
    path = tmp_path / "other.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=r"other.json is not the key of a sheet"):
        read_answers(sheet.csv, path)


# Agreement


def test_kappa_against_its_formula():
    rng = np.random.default_rng(0)
    kinds = np.array(["a", "b", "tie"])
    human = dict(enumerate(kinds[rng.integers(3, size=60)].tolist()))
    judge = {i + 10: human.get(i + 10, "a") if rng.random() < 0.6 else "tie" for i in range(70)}
    got = cohen_kappa(human, judge)
    common = range(10, 60)
    table = confusion_matrix([human[i] for i in common], [judge[i] for i in common]) / 50
    observed, chance = np.trace(table), table.sum(axis=0) @ table.sum(axis=1)
    assert got.n_pairs == 50
    assert got.agreement == pytest.approx(observed)
    assert got.kappa == pytest.approx((observed - chance) / (1 - chance))
    assert 0 < got.kappa < 1


def test_kappa_of_a_judge_leaves_out_what_it_did_not_say():
    choices = [(1, 2), (2, 1), (None, 1), (1, 1)]
    verdicts = [Verdict("", *(Answer("", choice) for choice in two)) for two in choices]
    got = cohen_kappa(winners(verdicts), {0: "a", 1: "b", 2: "a", 3: "tie"})
    assert got == (1.0, 1.0, 3)


def test_one_answer_only_tells_nothing_of_chance():
    got = cohen_kappa({0: "a", 1: "a"}, {0: "a", 1: "a"})
    assert np.isnan(got.kappa) and got.agreement == 1


def test_no_common_pairs_are_refused():
    with pytest.raises(ValueError, match=r"no pair in common \(1 and 2 rated\)"):
        cohen_kappa({0: "a"}, {1: "a", 2: "b"})
