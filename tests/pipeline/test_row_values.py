"""Columns of a pool that say what a row is worth, what it costs, and which group it is in."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fisher_jax as fj
from fisher_jax.util.errors import UserError
from tests.helpers.cli import K, N, manifest_of, read_rows, write_embeddings, write_rows

ROWS = [
    {"id": i, "stars": (3 * i) % 5, "price": 1.5 + i % 3, "source": "abc"[i % 3]}
    | {"none": None, "long": 10**400}
    for i in range(N)
]
STARS, PRICES, SOURCES = ([row[name] for row in ROWS] for name in ("stars", "price", "source"))


@pytest.fixture
def emb(tmp_path):
    return write_embeddings(tmp_path / "emb.safetensors")


def test_qualities_groups_and_prices_are_columns(run, ready, emb, out, tmp_path):
    pool = write_rows(tmp_path / "p.jsonl", ROWS)
    given = [pool, *ready, "-o", out, "--normalize", "none", "--overwrite"]
    cases = {
        ("--n-samples", K, "--quality", "stars", "--quality-weight", "0.5"): {
            "n_samples": K,
            "quality": STARS,
            "quality_weight": 0.5,
        },
        ("--token-budget", "6.5", "--cost-column", "price"): {"token_budget": 6.5, "costs": PRICES},
        ("--n-samples", 6, "--group-by", "source", "--group-cap", "2"): {
            "n_samples": 6,
            "groups": SOURCES,
            "group_cap": 2,
        },
        ("--n-samples", 3, "--group-by", "source", "--group-cap", "a=1", "--group-cap", "b=0"): {
            "n_samples": 3,
            "groups": SOURCES,
            "group_cap": {"a": 1, "b": 0},
        },
        ("--n-samples", 3, "--group-by", "source", "--group-cap", "equal"): {
            "n_samples": 3,
            "groups": SOURCES,
            "group_cap": 1,
        },
    }
    for argv, told in cases.items():
        expected = fj.select(emb, **told)
        code, messages = run(*given, *argv, "--certify")
        assert code == 0
        chosen = read_rows(out)
        assert [row["id"] for row in chosen] == expected.ranking.tolist()
        np.testing.assert_allclose([row["fisher_gain"] for row in chosen], expected.gains)
        result = manifest_of(out)["result"]
        share = fj.certify(emb, expected.ranking, **told)
        assert result["least_share_of_best"] == pytest.approx(share)
        if "quality" in told:
            assert result["selected_quality"] == sum(row["stars"] for row in chosen)
            assert f"qualities add up to {result['selected_quality']:.4g}" in messages
        if "costs" in told:
            assert result["selected_cost"] == sum(row["price"] for row in chosen) <= 6.5
        if "groups" in told:
            sources = [row["source"] for row in chosen]
            assert result["selected_of_group"] == {s: sources.count(s) for s in set(sources)}


def test_values_go_with_the_rows_that_are_left(llama):
    texts = ["a b c d", "", "b c d e", "A b c d", "c d e f", "d e f g"]
    rows = [{"text": text, "q": 100.0 * (i == 4), "s": i} for i, text in enumerate(texts)]
    choice = fj.choose(
        rows, model=llama, n_samples=1, quality="q", on_empty="skip", deduplicate="exact"
    )
    assert choice.ranking.tolist() == [4]
    grouped = fj.choose(
        rows,
        model=llama,
        n_samples=4,
        group_by="s",
        group_cap=1,
        on_empty="skip",
        deduplicate="exact",
        selector="uniform",
    )
    assert grouped.facts["selected_of_group"] == {"0": 1, "2": 1, "4": 1, "5": 1}


WRONG = {
    "no such column": ({"quality": "starz"}, "pool has no column 'starz'"),
    "too good": (
        {"quality": "stars", "quality_weight": 1e38},
        "times quality_weight adds up to 1.4e+39, more than float32 holds",
    ),
    "no number": ({"quality": "source"}, "pool, row 0: column 'source' must be a number, got 'a'"),
    "a number too long": ({"quality": "long"}, "row 0: column 'long' must be a number, got 1000"),
    "a free row": ({"token_budget": 5, "cost_column": "stars"}, "row 0: column 'stars' must be ab"),
    "no group": ({"group_by": "none", "group_cap": 1}, "row 0: column 'none' must name a group"),
    "too little": (
        {"token_budget": 1, "cost_column": "price"},
        "`token_budget=1` buys nothing: the cheapest row costs 1.5",
    ),
    "caps too low": ({"group_by": "source", "group_cap": 1}, "`group_cap` allows 3"),
    "unknown group": ({"group_by": "source", "group_cap": {"z": 1}}, "names 'z', but the groups"),
    "cost of rows": ({"cost_column": "price"}, "`cost_column` goes with `token_budget`"),
    "cap alone": ({"group_cap": 2}, "`group_by` and `group_cap` go together"),
    "weight alone": ({"quality_weight": 2}, "`quality_weight` goes with `quality`"),
    "weight below 0": ({"quality": "stars", "quality_weight": -2}, "must be at least 0, got -2"),
    "a weight of 400 digits": (
        {"quality": "stars", "quality_weight": 10**400},
        "`quality_weight` is too large: give less than 1.8e+308",
    ),
    "a cap of 400 digits": (
        {"group_by": "source", "group_cap": {"a": 10**400}},
        "`group_cap` is too large",
    ),
    "a cap below 0": (
        {"group_by": "source", "group_cap": -1},
        "`group_cap` must be at least 0, got -1",
    ),
    "a rule without": (
        {"quality": "stars", "selector": "k_center"},
        "`selector=k_center` does not look at `quality`: leave it out, or take one of fisher, ",
    ),
    "a draw": (
        {"group_by": "source", "group_cap": 2, "selector": "fisher_random"},
        "`selector=fisher_random` does not look at `group_by`",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_columns_that_cannot_be_are_refused(name, emb):
    told, words = WRONG[name]
    budget = {} if "token_budget" in told else {"n_samples": 6}
    with pytest.raises(UserError) as caught:
        fj.choose(ROWS, embeddings=emb, **budget, **told)
    assert words in str(caught.value) and "for '" not in str(caught.value)


def test_caps_of_a_column_of_numbers_are_by_number(emb):
    choice = fj.choose(ROWS, embeddings=emb, n_samples=6, group_by="stars", group_cap={0: 1})
    assert choice.facts["selected_of_group"]["0"] == 1


def test_rows_with_values_that_cannot_be_are_skipped_and_listed(run, ready, emb, out, tmp_path):
    rows = [row | {"price": row["price"] * (i != 3)} for i, row in enumerate(ROWS)]
    rows[5]["stars"], rows[6]["source"] = "x", None
    pool = write_rows(tmp_path / "p.jsonl", rows)
    argv = [pool, *ready, "-o", out, "--normalize", "none", "--token-budget", 5, "--skip-bad"]
    argv += ["--quality", "stars", "--cost-column", "price", "--group-by", "source"]
    code, messages = run(*argv, "--group-cap", 9)
    assert code == 0
    kept = [0, 1, 2, 4, 7]
    expected = fj.select(
        emb.take(np.array(kept)),
        token_budget=5,
        costs=[PRICES[i] for i in kept],
        quality=[STARS[i] for i in kept],
    )
    assert [row["id"] for row in read_rows(out)] == [kept[i] for i in expected.ranking]
    told = [
        f"{pool}, line 6: column 'stars' must be a number, got 'x'",
        f"{pool}, line 4: column 'price' must be above 0, got 0.0",
        f"{pool}, line 7: column 'source' must name a group",
    ]
    assert manifest_of(out)["result"]["pool_bad_rows"] == told
    note = f"3 bad rows left out ({'; '.join(told)})."
    assert note in messages and note in manifest_of(out)["notes"]


def test_no_row_with_a_value_is_refused(emb):
    with pytest.raises(UserError, match="pool has no row that can be used: the first, pool, row 0"):
        fj.choose(ROWS, embeddings=emb, n_samples=1, quality="none", skip_bad=True)


@pytest.mark.parametrize("option", ["--quality", "--cost-column", "--group-by"])
def test_a_column_that_python_cannot_hold_is_told(option, refused, ready, out, tmp_path):
    zone = pa.array([0] * N, pa.timestamp("us", "Nowhere/None"))
    table = pa.table({"zone": zone, "day": pa.array([-800_000] * N, pa.date32())})
    pq.write_table(table, pool := tmp_path / "p.parquet")
    budget = ["--token-budget", 9] + ["--group-cap", 9] * (option == "--group-by")
    for column in ("zone", "day"):
        argv = [pool, *ready, "-o", out, *budget, option, column]
        refused(argv, [f"{pool}: column '{column}' can't be read (", "name another"])


def test_a_group_is_named_by_all_of_its_label(emb):
    labels = ["a", "a\0", "b" * 100_000, "b"] * 2
    rows = [{"label": label} for label in labels]
    choice = fj.choose(rows, embeddings=emb, n_samples=4, group_by="label", group_cap=1)
    assert choice.facts["selected_of_group"] == dict.fromkeys(labels, 1)
    group = choice.pool.values.group
    assert group is not None and group.nbytes == 8 * N  # none is padded to the longest
