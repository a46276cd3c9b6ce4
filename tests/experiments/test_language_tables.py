"""Tables and figures of the language experiment, from planted rows."""

import numpy as np
import pytest

from experiments.report import figures
from experiments.report.forest import parts
from experiments.report.language_measures import (
    Match,
    length_and_content,
    to_match,
    two_level,
)
from experiments.report.language_runs import LanguageRun
from experiments.report.language_texts import judged
from experiments.report.statistics import Estimate, difference, estimate


def planted(selector, values, n=10, tokens=100, equal="tokens"):
    return [
        {
            "setting": {}, "selector": selector, "equal": equal, "n": n, "replicate": k,
            "tokens": tokens, "rows": n, "held_out_nll": v, "validation_nll": v,
            "test_nll": [v, 3 * v + 0.1], "test_tokens": [1, 3], "bits_per_byte": v,
        }
        for k, v in enumerate(values)
    ]  # fmt: skip


def of_rows(rows):
    run = object.__new__(LanguageRun)
    run.rows = rows
    return run


def cells(text):
    """Head and lines of a table in Markdown."""
    head, _, *lines = (line[2:-2].split(" | ") for line in text.splitlines())
    return head, lines


def test_rows_of_two_points_are_no_curve_point():
    with pytest.raises(ValueError, match="4 rows of 2 replicates: choose one point"):
        difference(planted("a", [1.0, 2.0]) * 2, planted("b", [1.0, 2.0]), "held_out_nll")


def test_differences_are_paired():
    a, b = planted("a", [1.0, 2.0, 4.0]), planted("b", [1.5, 2.5, 4.5])
    assert difference(a, b, "held_out_nll")[:2] == pytest.approx((-0.5, 0))
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
    head, lines = cells(judged([entry], pairs_a_model=3))
    told = lines[0][head.index("the same over models")]
    shares = (1 + 0.5) / 3, 2 / 2  # of the first three pairs and of the readable ones of the rest
    assert told == "{:.2f} ± {:.2f}".format(*estimate(shares)[:2])
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
    head, lines = cells(of_rows(rows).exchanged("proxy", None, "p", "pool", 10))
    assert head[1:] == ["clean"]
    assert lines == [["a", f"0.50; +0.200 ± {0.1 * 12.7062:.3f}"]]
    alone = of_rows(rows[:2]).exchanged("proxy", None, "p", "pool", 10)
    assert cells(alone)[1] == [["a", "not run"]]


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
    run = of_rows(rows)
    head, lines = cells(run.losses())
    assert head[1:] == ["equal tokens, n = 10", "equal tokens, n = 40"]
    assert lines[1] == ["a", "-0.150 ± 0.635", "not run"]
    assert lines[2] == ["b", "not run", "+0.500 (one replicate)"]
    assert cells(run.variants("equal", 10))[1][0][0] == "a"
    assert cells(run.lengths())[1][1][2] == "not run"
    assert cells(run.matches("equal", 10))[1][1] == ["b", "not run"]
    head, lines = cells(run.matches_by_n("tokens", [10, 40]))
    assert head[1:] == ["equal tokens, n = 10", "equal tokens, n = 40"]
    assert lines[0][2] == lines[1][1] == "not run"
    assert cells(run.losses_by("equal", 40, "a"))[1][0] == ["uniform", "not run"]


def test_fractions_are_compared_with_the_whole_pool():
    rows = planted("uniform", [3.0, 3.4]) + planted("uniform", [2.0, 2.2], n=40, tokens=400)
    rows += planted("a", [2.5, 2.9], equal="examples")
    head, lines = cells(of_rows(rows).fractions(40))
    assert head[1:] == ["25% of the tokens", "25% of the examples"]
    assert lines[0][1:] == ["+1.100 ± 1.271", "not run"]
    assert lines[1][1:] == ["not run", "+0.600 ± 1.271"]


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
    bars = parts(of_rows(rows).parts(10)).axes[0].patches
    length, content = (bar.get_width() for bar in bars)
    assert length + content == pytest.approx(0.55)
    assert length == pytest.approx(0.5)
