"""What the page shows of each kind of rule, and what it says of a selection."""

import numpy as np
import pytest

import fisher_jax as fj
from fisher_jax.report import compare_with_uniform, write_report
from fisher_jax.report.guidance import flat_from, gains_by_criterion, guidance
from fisher_jax.report.likeness import Nearest, map_of, nearest_earlier
from fisher_jax.report.measures import measure_of
from fisher_jax.selectors import SELECTORS
from tests.helpers.references import DIM, N
from tests.helpers.subjects import subject

RULES = {
    "fisher": {"log_det_examples", "log_det_tokens", "gain"},
    "longest": {"log_det_examples", "log_det_tokens", "gain"},
    "k_center": {"judged"},
    "perplexity_high": {"judged"},
    "rds": {"judged"},
    "i_optimal": {"judged", "log_det_examples", "log_det_tokens", "gain"},
}


def unit(points):
    return points / np.linalg.norm(points, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def told():
    """A task of three rows, and losses."""
    rng = np.random.default_rng(5)
    rows = [rng.standard_normal((4, DIM)).astype(np.float32) for _ in range(3)]
    return {
        "targets": fj.TokenEmbeddings.from_list(rows),
        "losses": rng.uniform(1, 4, N),
    }


def chosen_by(name, emb, told, **more):
    rule = SELECTORS[name]
    scores = {key: told[key] for key in rule.takes}
    selection = rule(emb, n_samples=12, **scores)
    return subject(emb, selection, name, scores=scores, **more)


@pytest.mark.parametrize("name", RULES)
def test_figures_and_headline_fit_the_rule(name, emb, told, tmp_path):
    of = chosen_by(name, emb, told)
    comparison = compare_with_uniform(of)
    write_report(tmp_path, of, comparison, facts="", notes=["A bound."], settings={})
    drawn = {path.stem for path in tmp_path.glob("*.png")}
    assert drawn == RULES[name] | {"lengths", "map"}
    page = (tmp_path / "report.html").read_text()
    assert "A bound." in page
    assert page.count('<details class="row">') == (22 if of.aim == "information" else 12)
    assert page.count("<button disabled>") == page.split("<summary>")[1].count("<b>")
    measured = {"k_center": "largest distance", "perplexity_high": "mean loss"}
    measured |= dict.fromkeys(("rds", "i_optimal"), "mean similarity to the task")
    assert f"12 examples, {measured.get(name, 'log det')} " in comparison.headline(of)
    assert page.count("Nearest row of the task") == (12 if of.aim == "task" else 0)


def test_a_task_a_score_and_the_spread_are_measured_as_the_rules_have_them(emb, told):
    rows, own = (e.pooled("position").astype(np.float64) for e in (emb, told["targets"]))
    similarity = (unit(rows) @ unit(own).T).max(axis=1)
    of = chosen_by("rds", emb, told)
    chosen = of.selection.ranking
    np.testing.assert_allclose(measure_of(of).of(chosen), similarity[chosen], rtol=1e-5)
    of = chosen_by("perplexity_high", emb, told)
    assert measure_of(of).of(np.array([3, 1])).tolist() == told["losses"][[3, 1]].tolist()
    of = chosen_by("k_center", emb, told)
    means = np.array([x.mean(axis=0) for x in (emb[i] for i in range(N))], np.float64)
    radius = np.linalg.norm(means[:, None] - means[of.selection.ranking], axis=2).min(axis=1)
    measure = measure_of(of)
    found = measure.of(of.selection.ranking)
    np.testing.assert_allclose(sorted(found), sorted(radius), atol=1e-5)
    assert measure.whole(found) == pytest.approx(radius.max(), rel=1e-5)
    judged = compare_with_uniform(of).judged
    own, equal_examples, _ = judged.numbers
    assert own == pytest.approx(radius.max(), rel=1e-5)
    assert len(judged.examples) == 20 and equal_examples > own
    assert measure_of(chosen_by("fisher", emb, told)) is None


def test_the_table_compares_rules_at_one_budget(emb, told, tmp_path):
    others = {name: SELECTORS[name](emb, n_samples=12) for name in ("longest", "uniform")}
    of = chosen_by("rds", emb, told, others=others, columns={"source": ["a", "b"] * (N // 2)})
    write_report(tmp_path, of, compare_with_uniform(of), facts="", notes=[], settings={})
    page = (tmp_path / "report.html").read_text()
    measure, chosen = measure_of(of), of.selection.ranking
    for name, other in others.items():
        tokens = emb.lengths[other.ranking].sum()
        cells = [name, "12", f"{tokens:,}", f"{tokens / 12:.1f}", f"{other.log_det:.1f}"]
        cells.append(f"{len({*other.ranking} & {*chosen}) / 12:.0%}")
        cells.append(f"{measure.of(other.ranking).mean():.3g}")
        first, *numbers = cells
        line = "".join(f'<td class="number">{cell}</td>' for cell in numbers)
        assert f"<tr><td>{first}</td>{line}</tr>" in page
    share, tokens = np.mean(chosen % 2 == 0), emb.lengths[chosen]
    part = tokens[chosen % 2 == 0].sum() / tokens.sum()
    numbers = ["50.0%", f"{share:.1%}", f"{part:.1%}"]
    line = "".join(f'<td class="number">{cell}</td>' for cell in numbers)
    assert f"<tr><td>a</td>{line}</tr>" in page
    assert (tmp_path / "log_det_tokens.png").exists()


def test_gains_are_flat_where_ten_add_less_than_a_twentieth_of_the_first_ten():
    gains = np.array([2.0] * 10 + [1.0] * 10 + [0.099] * 10)
    assert flat_from(gains) == 20
    assert flat_from(np.append(gains[:20], [0.101] * 10)) is None
    assert flat_from(np.array([1.0] * 10 + [0.0] * 9)) is None


def test_the_nearest_earlier_choice_is_that_of_the_largest_cosine():
    rng = np.random.default_rng(0)
    means = rng.standard_normal((1300, 3)) + 5
    means[70] = means[8]
    ranking = rng.permutation(1300)[:1200]
    ranking[[3, 1100]] = 8, 70  # in different blocks
    ranking = np.array([*dict.fromkeys(ranking.tolist())])
    nearest = nearest_earlier(means, ranking)
    points = unit((means - means.mean(axis=0))[ranking])
    cosines = points @ points.T
    assert nearest.rank[0] == -1 and np.isnan(nearest.cosine[0])
    for k in range(1, len(ranking)):
        assert nearest.rank[k] == np.argmax(cosines[k, :k])
        assert nearest.cosine[k] == pytest.approx(cosines[k, :k].max())
    first = [*ranking].index(8)
    assert [*ranking].index(70) in nearest.copies and first == 3
    assert set(nearest.copies) == {k for k in range(1, len(ranking)) if cosines[k, :k].max() > 0.98}


def test_the_map_has_the_principal_components_and_finds_clusters():
    rng = np.random.default_rng(1)
    centres = np.array([[9.0, 0, 0, 0], [-9.0, 2, 0, 0], [0, 0, 7.0, 0]])
    kind = np.repeat([0, 1, 2], [20, 12, 6])
    points = (centres[kind] + 0.1 * rng.standard_normal((38, 4))).astype(np.float32)
    emb = fj.TokenEmbeddings.from_matrix(points)
    of = subject(emb, fj.select(emb, n_samples=4))
    seen = map_of(of, points)
    centred = points - points.mean(axis=0)
    _, widths, axes = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(seen.places), np.abs(centred @ axes[:2].T), atol=1e-3)
    np.testing.assert_allclose(seen.shares, widths[:2] ** 2 / np.sum(widths**2), rtol=1e-4)
    assert len({(k, c) for k, c in zip(kind, seen.cluster, strict=True)}) == len(seen.centres)
    for c, i in enumerate(seen.typical):
        own = [j for j in of.selection.ranking if seen.cluster[j] == c]
        assert i in own if own else i == -1
    assert np.all(np.diff(np.bincount(seen.cluster)) <= 0)
    assert map_of(of, points).places.tobytes() == seen.places.tobytes()


def test_guidance_tells_of_copies_and_of_gains(emb, told):
    of = chosen_by("fisher", emb, told)
    none = Nearest(np.arange(-1, 11), np.full(12, 0.5))
    assert [*guidance(of, none, None)] == [
        "No choice is a near copy of an earlier one (cosine above 0.98)."
    ]
    some = Nearest(np.arange(-1, 11), np.array([np.nan] + [0.5] * 6 + [0.99] * 5))
    assert next(guidance(of, some, None)).startswith(
        "5 choices are near copies of an earlier one (cosine of the rows' means above 0.98), "
        "first rank 7 of rank 6"
    )
    long = of._replace(selection=fj.select(emb, n_samples=25))
    assert "Gains have not flattened: the last ten" in next(guidance(long, none, None))
    per = long._replace(rule=fj.SELECTORS["fisher_per_token"])
    assert "Gains a token have" in next(guidance(per, none, None))
    paid = per._replace(prices=np.ones(len(emb)))
    np.testing.assert_array_equal(gains_by_criterion(paid), long.selection.gains)
    assert "Gains a unit of cost have" in next(guidance(paid, none, None))
    assert "Gains" not in "".join(guidance(chosen_by("longest", emb, told), none, None))
