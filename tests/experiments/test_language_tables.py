"""Tables and figures of the language experiment, from planted rows."""

import json

import numpy as np
import pytest

from experiments.report import figures
from experiments.report.language_tables import (
    LanguageTables,
    Match,
    difference,
    judged,
    length_and_content,
    to_match,
    two_level,
)
from experiments.report.statistics import Estimate, estimate


def planted(selector, values, n=10, tokens=100, equal="tokens"):
    return [
        {
            "setting": {}, "selector": selector, "equal": equal, "n": n, "replicate": k,
            "tokens": tokens, "rows": n, "held_out_nll": v, "validation_nll": v,
            "test_nll": [v, 3 * v + 0.1], "test_tokens": [1, 3], "bits_per_byte": v,
        }
        for k, v in enumerate(values)
    ]  # fmt: skip


def test_rows_of_two_points_are_no_curve_point():
    with pytest.raises(ValueError, match="4 rows of 2 replicates: choose one point"):
        difference(planted("a", [1.0, 2.0]) * 2, planted("b", [1.0, 2.0]), "held_out_nll")


def test_differences_are_paired():
    a, b = planted("a", [1.0, 2.0, 4.0]), planted("b", [1.5, 2.5, 4.5])
    assert difference(a, b, "held_out_nll") == pytest.approx((-0.5, 0))
    assert two_level(a, b) == pytest.approx((-0.5, -0.5))  # nats a token, long row or short


def test_judged_texts_are_counted_by_the_model_that_wrote_them():
    share = [0.5, 0.4, 0.6]
    entry = {
        "judge": "j", "naming": "neutral", "selector": "fisher", "equal": "tokens", "n": 10,
        "winners": ["a", "b", "tie", "unparsable", "a", "a"],
        "tally": {
            "n_pairs": 6, "ties": 1, "unparsable": 1, "position_1": 0.5, "probability_a": None,
            "win_rate_clustered": share, "half_ties": share,
        },
    }  # fmt: skip
    head, lines = judged(json.dumps([entry]), pairs_a_model=3)
    told = lines[0][head.index("the same over models")]
    shares = (1 + 0.5) / 3, 2 / 2  # of the first three pairs and of the readable ones of the rest
    assert told == "{:.2f} ± {:.2f}".format(*estimate(shares))
    assert len(head) == len(lines[0])


def test_a_bootstrap_counts_tokens():
    a, b = (planted(name, values) for name, values in (("a", [1.0] * 40), ("b", [1.0] * 40)))
    for row in a:
        row["test_nll"] = [row["test_nll"][0], row["test_nll"][1] + 4]
    low, high = two_level(a, b)
    assert 0 < low < 0.5 * 1 + 0.25 * 4 / 3 < high  # of two rows drawn one is long, or both


def test_an_exchange_is_told_by_common_rows_and_by_its_loss():
    rows = [
        row | {"setting": {"proxy": proxy, "pool": "clean"}, "chosen": chosen}
        for proxy, values, chosen in (
            (None, [2.0, 2.0], [1, 2, 3]),
            ("p", [2.1, 2.3], [3, 1, 7, 8, 9]),
        )
        for row in planted("a", values)
    ]
    head, lines = LanguageTables(rows).exchanged("proxy", None, "p", "pool", 10)
    assert head[1:] == ["clean"]
    assert lines == [["a", f"0.50; +0.2000 ± {0.1 * 12.7062:.4f}"]]
    assert LanguageTables(rows[:2]).exchanged("proxy", None, "p", "pool", 10)[1] == [
        ["a", "not run"]
    ]


def test_tokens_to_match_are_interpolated_in_log_tokens():
    curve = planted("uniform", [3.0, 3.0]) + planted("uniform", [2.0, 2.0], n=40, tokens=400)
    half_way = planted("a", [2.5, 2.5], tokens=100)
    assert np.exp(to_match(half_way, curve).log_ratio.mean) == pytest.approx(2.0)
    same = planted("a", [2.5, 2.5], n=20, tokens=100)  # 20 rows, as 20 of uniform's and 40
    assert np.exp(to_match(same, curve, "rows").log_ratio.mean) == pytest.approx(
        np.exp((np.log(curve[0]["rows"]) + np.log(curve[-1]["rows"])) / 2) / same[0]["rows"]
    )
    beyond = planted("a", [1.0, 1.0], tokens=100)
    assert str(to_match(beyond, curve)) == "at least 4.00 (2 of 2 at the end)"
    assert str(Match(Estimate(np.log(2), 0.1), 0, 0, 5)) == "2.00 (1.81 to 2.21)"
    assert str(Match(Estimate(np.log(2), 0.1), 1, 1, 5)) == "beyond the curve on both sides"


def test_length_and_content_add_up_to_the_advantage():
    curve = planted("uniform", [3.0, 3.2]) + planted("uniform", [2.0, 2.2], n=40, tokens=400)
    uniform = planted("uniform", [3.0, 3.2], equal="examples")
    chosen = planted("a", [2.4, 2.6], tokens=200, equal="examples")
    length, content = length_and_content(chosen, uniform, curve)
    assert (length.mean, content.mean) == pytest.approx((0.5, 0.1))


def test_tables_show_what_was_not_run():
    rows = planted("uniform", [3.0, 3.2]) + planted("a", [2.9, 3.0])
    rows += planted("uniform", [2.0], n=40) + planted("b", [2.5], n=40)
    tables = LanguageTables(rows)
    head, lines = tables.main()
    assert head[1:] == ["equal tokens, n = 10", "equal tokens, n = 40"]
    assert lines[1] == ["a", "-0.1500 ± 0.6353", "not run"]
    assert lines[2][1] == "not run"
    assert tables.variants("equal", 10)[1][1] == ["a", "-0.1000"]
    assert tables.lengths()[1][1][2] == "not run"
    assert tables.matches("equal", "tokens", 10)[1][1] == ["b", "not run"]
    head, lines = tables.matches_by_n("tokens", [10, 40])
    assert head[1:] == ["equal tokens, n = 10", "equal tokens, n = 40"]
    assert lines[0][2] == lines[1][1] == "not run"
    assert tables.main()[1][2] == ["b", "not run", "+0.5000 (one replicate)"]
    assert tables.against(["uniform"], "equal", "tokens", 40)[1][0][2] == "not run"


def test_fractions_are_compared_with_the_whole_pool():
    rows = planted("uniform", [3.0, 3.4]) + planted("uniform", [2.0, 2.2], n=40, tokens=400)
    rows += planted("a", [2.5, 2.9], equal="examples")
    head, lines = LanguageTables(rows).fractions(40)
    assert head[1:] == ["25% of the tokens", "25% of the examples"]
    assert lines[0][1:] == ["+1.1000 ± 1.2706", "not run"]
    assert lines[1][1:] == ["not run", "+0.6000 ± 1.2706"]


def test_figures_of_a_run_are_drawn(tmp_path):
    rows = planted("uniform", [3.0, 3.2]) + planted("uniform", [2.0, 2.2], n=40, tokens=400)
    rows += planted("uniform", [3.0, 3.2], equal="examples")
    rows += planted("a", [2.5, 2.6], equal="examples", tokens=200)
    alone = planted("a", [2.5], n=40, tokens=300)  # of one replicate, where others have two
    figure = figures.learning_curves({"pool": rows + alone})
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.containers] == ["uniform", "a"]
    assert axes.containers[1].lines[0].get_xdata().tolist() == [200]
    figures.save(figure, tmp_path / "curves.png")
    tables = LanguageTables(rows)
    bars = figures.parts(tables.parts(10)).axes[0].patches
    length, content = (bar.get_width() for bar in bars)
    assert length + content == pytest.approx(0.55)
    assert length == pytest.approx(0.5)
