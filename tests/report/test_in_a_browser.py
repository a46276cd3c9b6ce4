"""The report in a real browser: its list works, fits a small window, and nothing in a row runs."""

import pytest

from fisher_jax.report import compare_with_uniform, write_report
from fisher_jax.selectors import SELECTORS
from tests.helpers import browser
from tests.helpers.subjects import subject

pytestmark = pytest.mark.skipif(not browser.IS_HERE, reason=browser.NEEDS)
N_CHOSEN = 12
HOSTILE = [
    '<script>document.title = "run"</script>',
    '"><img src="https://example.org/x.png" onerror="alert(1)">',
    "</style></title></details></table><iframe src='https://example.org'></iframe>",
    "<svg/onload=alert(1)><style>*{background:url(//example.org/a)}</style>",
    "<a href='javascript:alert(1)'>x</a>{{ 7 * 7 }}<base href=//example.org>",
    "\u202eevil שלום " + "no_space" * 60,
]
SHOWN = "#rows > details:visible"


def text_of(i):
    return f"{HOSTILE[i % len(HOSTILE)]} word{i}"


@pytest.fixture(scope="module")
def report(emb, tmp_path_factory):
    selection = SELECTORS["fisher"](emb, n_samples=N_CHOSEN)
    of = subject(emb, selection, preview=text_of)
    folder = tmp_path_factory.mktemp("report")
    settings = {"pool": HOSTILE[1]}
    write_report(folder, of, compare_with_uniform(of), facts="", notes=HOSTILE, settings=settings)
    return folder / "report.html", [text_of(int(i)) for i in selection.ranking]


@pytest.mark.parametrize("width", [500, 1200])
def test_rows_are_text_and_fit_the_window(report, width):
    path, texts = report
    with browser.opened(path, width) as (page, did):
        for row in page.locator("#rows summary").all():
            row.click()
        shown = page.locator("#rows > details").all_text_contents()
        assert all(text in row for text, row in zip(texts, shown, strict=True))
        assert page.locator("li").all_inner_texts()[: len(HOSTILE)] == HOSTILE
        assert page.title().startswith(f"fisher-select: {N_CHOSEN} examples")
        assert page.evaluate("document.documentElement.scrollWidth") == width
    assert did == []


def test_words_are_found_and_columns_sorted(report):
    path, texts = report
    with browser.opened(path) as (page, did):
        page.fill("#search", "SCRIPT word")
        both = [text for text in texts if "script" in text]
        assert page.locator(SHOWN).count() == len(both) > 0
        assert page.inner_text("#found") == f"{len(both)} of {N_CHOSEN} rows"
        page.fill("#search", "")

        def column(name):
            place = page.locator("#sort button").all_inner_texts().index(name)
            cells = page.locator(f"#rows summary b:nth-child({place + 1})").all_text_contents()
            return [float(cell.replace(",", "") or "-inf") for cell in cells]

        for name in ("tokens", "gain (nats)", "likeness", "rank"):
            button = page.locator("#sort button", has_text=name)
            for falls in (False, True):
                button.click()
                assert column(name) == sorted(column(name), reverse=falls)
    assert did == []


def test_without_scripts_the_rows_stand_in_order_of_choice(report):
    path, texts = report
    with browser.opened(path, java_script_enabled=False) as (page, did):
        assert page.locator("#tools").is_hidden()
        ranks = page.locator("#rows summary b:first-child").all_text_contents()
        assert ranks == [str(rank) for rank in range(len(texts))]
    assert did == []
