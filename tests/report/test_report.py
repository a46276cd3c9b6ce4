"""The report of a selection: its comparison with uniform draws, and what the command writes."""

import base64
import hashlib
import html.parser
import json

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

import fisher_jax as fj
from fisher_jax.command.arguments import parser
from fisher_jax.command.main import main
from fisher_jax.design.evaluation import remaining_gains
from fisher_jax.report import FILES, N_DRAWS, compare_with_uniform
from fisher_jax.report import comparison as comparing
from fisher_jax.report.comparison import uniform_draws
from fisher_jax.report.page import SCRIPT
from fisher_jax.selectors import SELECTORS
from fisher_jax.util.streams import stream
from tests.helpers.references import f, information, log_det, random_pool
from tests.helpers.subjects import subject

N, M, D, K = 8, 4, 8, 3  # the command's runs share one shape: each other is a compilation

# Comparisons


def test_uniform_draws_are_interpolated_where_all_draws_reach():
    draws = [
        (np.array([2.0, 4.0]), np.array([1.0, 3.0])),
        (np.array([1.0, 5.0, 9.0]), np.array([2.0, 4.0, 5.0])),
    ]
    got = uniform_draws(draws, points=5)
    np.testing.assert_allclose(got.budget, [0, 1, 2, 3, 4])
    np.testing.assert_allclose(got.low, [0, 0.5, 1, 2, 3])
    np.testing.assert_allclose(got.high, [0, 2, 2.5, 3, 3.5])
    np.testing.assert_allclose(got.mean, [0, 1.25, 1.75, 2.5, 3.25])
    got = uniform_draws(draws, limit=2.0, points=3)
    np.testing.assert_allclose(got.budget, [0, 1, 2])
    np.testing.assert_allclose(got.mean, [0, 1.25, 1.75])


@pytest.mark.parametrize("budget", [{"token_budget": 1.0}, {"token_budget": 9.0}, {"n_samples": 3}])
def test_uniform_draws_get_as_much_as_the_selection(budget):
    n_rows, seed = 20, 2
    examples = random_pool(0, n_rows, [5, 6], 4)
    examples[3] = examples[3][:1]  # all that one token buys, and no draw begins with it
    emb = fj.TokenEmbeddings.from_list(examples)
    selection = fj.select(emb, ridge=0.5, **budget)
    comparison = compare_with_uniform(subject(emb, selection, ridge=0.5, seed=seed))
    n, spent = len(selection.ranking), float(emb.lengths[selection.ranking].sum())
    assert comparison.examples.budget[-1] == n
    assert comparison.tokens.budget[-1] == spent

    rng = stream(seed, "report")
    orders = [rng.permutation(n_rows) for _ in range(N_DRAWS)]
    assert 3 not in [order[0] for order in orders]
    values = [f(examples, order[:n], 0.5) for order in orders]
    np.testing.assert_allclose(comparison.examples.mean[-1], np.mean(values), rtol=1e-4)
    np.testing.assert_allclose(comparison.examples.low[-1], np.min(values), rtol=1e-4)
    np.testing.assert_allclose(comparison.examples.high[-1], np.max(values), rtol=1e-4)
    values = []
    for order in orders:
        tokens = np.cumsum([0, *emb.lengths[order]])
        curve = [f(examples, order[:k], 0.5) for k in range(n_rows + 1)]
        values.append(np.interp(spent, tokens, curve))  # of the row that no longer fits, a share
    np.testing.assert_allclose(comparison.tokens.mean[-1], np.mean(values), rtol=1e-4)
    headline = comparison.headline(subject(emb, selection))
    counted = "1 example" if n == 1 else f"{n} examples"
    assert headline.startswith(f"{counted}, log det {selection.log_det:.1f} nats; ")
    assert f"{comparison.tokens.mean[-1]:.1f} with as many tokens" in headline


def test_a_uniform_selection_is_not_compared_with_itself(monkeypatch):
    emb = fj.TokenEmbeddings.from_list(random_pool(2, 20, [2, 3], 4))
    selection = SELECTORS["uniform"](emb, n_samples=5, seed=7)
    measured = []
    real = comparing.log_dets

    def log_dets(emb, orders, ridge, **options):
        measured.extend(order[:5].tolist() for order in orders)
        return real(emb, orders, ridge, **options)

    monkeypatch.setattr(comparing, "log_dets", log_dets)
    compare_with_uniform(subject(emb, selection, "uniform", seed=7))
    assert len(measured) == N_DRAWS
    assert selection.ranking.tolist() not in measured


def test_remaining_gains_are_differences_of_log_determinants():
    examples = [x.astype(np.float64) for x in random_pool(1, 8, [5, 6], 4)]
    emb = fj.TokenEmbeddings.from_list(examples)
    chosen = [6, 1, 4]
    gains = remaining_gains(emb, chosen, 0.5)
    v = information(examples, chosen, 0.5)
    for i, x in enumerate(examples):
        expected = np.inf if i in chosen else log_det(v + x.T @ x) - log_det(v)
        np.testing.assert_allclose(gains[i], expected, rtol=1e-9)


# What the command writes

TEXTS = [
    "<script>alert(1)</script>",
    "{{ 7*7 }}",
    "{% raw %}",
    "a & b",
    '" onload="x',
    "é ←",
    "<img src=https://example.org/x.png>",
    "z" * 2000,
]


class Page(html.parser.HTMLParser):
    """Tags with their attributes, scripts, and the rows of the list: cells, excerpt and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.rows, self.cells, self.open = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag in ("meta", "img", "input"):
            return
        self.open.append(tag)
        if tag == "script":
            self.scripts.append("")
        if attrs.get("class") == "row":
            self.rows.append([])
        if tag == "td":
            self.cells.append("")
        if "details" in self.open and tag in ("b", "span", "p"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        while self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            self.scripts[-1] += data
        if "td" in self.open:
            self.cells[-1] += data
        if "details" in self.open and self.open[-1] in ("b", "span", "p"):
            self.rows[-1][-1] += data


def read(path):
    tensors = load_file(path)
    return fj.TokenEmbeddings(tensors["tokens"], tensors["offsets"])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A pool with awkward texts, and OUT of a run on it."""
    folder = tmp_path_factory.mktemp("a <b>&amp;")
    pool, emb, out = folder / "<i>.jsonl", folder / "emb.safetensors", folder / "chosen.jsonl"
    pool.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    tokens = np.random.default_rng(0).standard_normal((N * M, D), dtype=np.float32)
    save_file({"tokens": tokens, "offsets": np.arange(0, N * M + 1, M)}, emb)
    argv = [pool, "-o", out, "--embeddings", emb, "--n-samples", K, "--normalize", "none"]
    assert main([str(word) for word in argv]) == 0
    return pool, emb, out


@pytest.fixture
def report(written):
    return written[2].with_name("chosen.jsonl.report")


@pytest.fixture
def page(report):
    return (report / "report.html").read_text(encoding="utf-8")


def test_the_folder_holds_the_report_and_nothing_else(report, written):
    assert {path.name for path in report.iterdir()} == set(FILES) - {"judged.png"}
    assert set(report.parent.iterdir()) == {*written, report}


def test_the_page_needs_no_other_file(page, report):
    tags = Page(page).tags
    for tag, attributes in tags:
        assert not set(attributes) & {"srcset", "background", "onload"}
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#").startswith("#") and (
            "href" not in attributes or tag == "a"
        )
    assert "@import" not in page and "url(" not in page
    ids = {a["id"] for _, a in tags if "id" in a}
    assert {a["href"][1:] for tag, a in tags if tag == "a"} <= ids
    images = {a["src"] for tag, a in tags if tag == "img"}
    files = [path.read_bytes() for path in report.glob("*.png")]
    assert images == {"data:image/png;base64," + base64.b64encode(f).decode() for f in files}
    for image in files:
        assert image.startswith(b"\x89PNG\r\n\x1a\n") and image[-8:-4] == b"IEND"


def test_every_text_is_shown_as_it_is(page, written):
    rows = Page(page).rows
    shown = [*TEXTS]
    assert [row[5] for row in rows if len(row[5]) <= 140] != []
    for row in rows:
        (text,) = {row[6]} if len(row[5]) == 141 else {row[5]}
        assert text in shown
        shown.remove(text)
    assert shown == []
    assert "alert(1)" in page and "<script>alert" not in page
    assert str(written[0]) in Page(page).cells and "<i>" not in page


def test_what_utf8_has_no_bytes_for_is_shown_by_its_number(run, ready, out, tmp_path):
    pool = tmp_path / "p.jsonl"
    rows = [{"text": "a", "source": source} for source in ("\ud83d", "b") * (N // 2)]
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, messages = run(pool, *ready, "-o", out, "--n-samples", K)
    assert code == 0, messages
    page = out.with_name("chosen.jsonl.report") / "report.html"
    assert r"<td>\ud83d</td>" in page.read_text(encoding="utf-8")


def test_the_list_has_all_choices_and_the_rows_with_least_to_add(page, written):
    _, emb, out = written
    table = np.array([row[:4] for row in Page(page).rows])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    ranking = pq.read_table(out.with_name("chosen.jsonl.report") / "ranking.parquet").to_pydict()
    assert table[:K, 0].tolist() == [str(rank) for rank in range(K)]
    assert table[:K, 1].tolist() == [str(i) for i in ranking["index"]]
    assert table[:K, 3].tolist() == [f"{row['fisher_gain']:.3f}" for row in rows]
    assert table[:, 2].tolist() == [str(M)] * N
    left = [int(i) for i in table[K:, 1]]
    assert sorted(left + ranking["index"]) == list(range(N))
    gains = remaining_gains(read(emb), ranking["index"])
    assert left == np.argsort(gains)[: N - K].tolist()
    assert table[K:, 3].tolist() == [f"{gains[i]:.3f}" for i in left]


def test_the_ranking_has_a_row_a_choice(written, report):
    _, emb, out = written
    table = pq.read_table(report / "ranking.parquet")
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("index", "int64"),
        ("rank", "int64"),
        ("gain", "double"),
        ("tokens", "int64"),
    ]
    expected = fj.select(read(emb), n_samples=K)
    assert table.column("index").to_pylist() == expected.ranking.tolist()
    assert table.column("rank").to_pylist() == list(range(K))
    assert table.column("gain").to_pylist() == expected.gains.tolist()
    assert table.column("tokens").to_pylist() == [M] * K
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["text"] for row in rows] == [TEXTS[i] for i in expected.ranking]
    assert [row["fisher_gain"] for row in rows] == expected.gains.tolist()


def test_the_manifest_has_all_to_make_the_selection_again(written, report):
    pool, emb, out = written
    manifest = json.loads((report / "manifest.json").read_text())
    assert set(manifest) == {
        "options",
        "result",
        "notes",
        "uniform_log_det",
        "compared",
        "versions",
        "sizes",
        "seconds",
    }
    options = manifest["options"]
    asked = vars(parser().parse_args(["-o", "x"]))
    assert set(options) == set(asked) - {"preview", "dry_run", "config"}
    assert (options["pool"], options["embeddings"]) == (str(pool), str(emb))
    assert (options["out"], options["report_dir"]) == (str(out), str(report))
    assert (options["n_samples"], options["normalize"], options["ridge"]) == (K, "none", 1.0)
    expected = fj.select(read(emb), n_samples=K)
    assert manifest["result"] == {
        "pool": str(pool),
        "pool_sha256": hashlib.sha256(pool.read_bytes()).hexdigest(),
        "embeddings": str(emb),
        "embeddings_sha256": hashlib.sha256(emb.read_bytes()).hexdigest(),
        "dropped_copies": 0,
        "rows": N,
        "tokens": N * M,
        "selected_rows": K,
        "selected_tokens": K * M,
        "log_det": expected.log_det,
        "out_sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
    }
    assert manifest["notes"] == [] and manifest["compared"] == {}
    equal = manifest["uniform_log_det"]
    assert set(equal) == {"equal_examples", "equal_tokens"}
    assert equal["equal_tokens"] == pytest.approx(equal["equal_examples"])
    assert 0 < equal["equal_examples"] < expected.log_det
    assert {"fisher-jax", "jax", "flax", "numpy", "python", "platform"} <= set(manifest["versions"])
    assert manifest["versions"]["numpy"] == np.__version__
    assert manifest["versions"]["devices"].startswith(f"{jax.device_count()} x ")
    steps = {"read", "deduplicate", "select", "compare", "report"}
    assert steps | {"total"} == set(manifest["seconds"])


def test_nothing_runs_but_our_script_and_texts_run_in_their_own_direction(page):
    parsed = Page(page)
    tags = parsed.tags
    (policy,) = [a["content"] for _, a in tags if a.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(parsed.scripts[0].encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    assert parsed.scripts == [SCRIPT.read_text(encoding="utf-8")]
    assert len(parsed.scripts[0].splitlines()) < 60
    assert not {"link", "iframe", "object", "base", "form"} & {tag for tag, _ in tags}
    assert not [name for _, a in tags for name in a if name.startswith("on")]
    shown = [a for tag, a in tags if tag == "span" and "dir" in a]
    assert len(shown) == N and {own["dir"] for own in shown} == {"auto"}
    assert {a["dir"] for tag, a in tags if tag == "p" and a.get("class") == "text"} == {"auto"}


def test_a_pool_of_one_row_has_a_report_too(tmp_path):
    emb, out = tmp_path / "emb.safetensors", tmp_path / "chosen.jsonl"
    save_file({"tokens": np.ones((M, D), np.float32), "offsets": np.array([0, M])}, emb)
    assert main(["--embeddings", str(emb), "-o", str(out), "--fraction", "0.1"]) == 0
    (row,) = Page((tmp_path / "chosen.jsonl.report" / "report.html").read_text()).rows
    assert row[:3] == ["0", "0", str(M)] and row[5] == "example 0"
    assert json.loads(out.read_text())["index"] == 0
