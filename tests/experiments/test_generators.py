"""What the experiments are made of: generators, information, statistics, word vectors."""

import jax
import numpy as np
import pytest

from experiments.report import statistics
from experiments.softmax import generators, information, lemma
from experiments.softmax import study as softmax_study
from experiments.softmax.algorithms import algorithm_1, algorithm_2
from experiments.softmax.generators import GENERATORS, make_problem
from experiments.softmax.study import rank
from experiments.softmax.word_vectors import read_vectors
from fisher_jax.design import softmax_model
from fisher_jax.design.budget import Budget
from fisher_jax.design.softmax_model import prediction_errors
from tests.helpers.experiment_options import SMALL, options
from tests.helpers.word_model import language_model


@pytest.mark.parametrize("generator", sorted(set(GENERATORS) - {"language"}))
def test_generators_have_unit_scale_and_a_seed(generator):
    one = make_problem(options(generator=generator, **SMALL), 0)
    again = make_problem(options(generator=generator, **SMALL), 0)
    other = make_problem(options(generator=generator, **SMALL), 1)
    assert one.emb.tokens.tobytes() == again.emb.tokens.tobytes() != other.emb.tokens.tobytes()
    np.testing.assert_array_equal(one.labels, again.labels)
    assert one.emb.mean_squared_norm() == pytest.approx(1, rel=1e-5)
    assert sorted(one.emb.lengths) == sorted(other.emb.lengths)
    by_prompt = rank(one, "fisher_prompt", Budget.of(one.emb, n_samples=3), options(**SMALL), 0)
    assert len(by_prompt) == 3


@pytest.mark.parametrize("lengths", ["random", "fixed"])
def test_exact_information_is_one_program_for_sets_of_any_size(lengths):
    small = SMALL | {"lengths": lengths, "selectors": ["uniform", "fisher"]}
    information._exact.clear_cache()
    rows = information.study(options(kind="information", n_subsets=2, **small), {})
    assert information._exact._cache_size() == 1 and len({r["tokens"] for r in rows}) > 1
    problem = make_problem(options(**small), 0)
    chosen = np.array([3, 1, 4])
    x = np.concatenate([problem.emb[i] for i in chosen]).astype(np.float64)
    with jax.enable_x64(True):
        h = softmax_model.information(problem.theta.astype(np.float64), x, reduced=True)
    expected = np.linalg.slogdet(np.eye(len(h)) + np.asarray(h) / 0.5)[1]
    got = information.information_of(problem, chosen, 0.5, room=len(x) + 20)
    assert got["exact"] == pytest.approx(expected, rel=1e-12) and got["tokens"] == len(x)


@pytest.mark.parametrize("generator", sorted(set(GENERATORS) - {"language"}))
def test_lemma_3_1_is_true_and_its_gamma_the_largest_allowed(generator):
    small = SMALL | {"generator": generator, "selectors": ["uniform", "fisher"], "budgets": [20]}
    rows = lemma.study(options(kind="lemma", **small), {})
    assert all(row["lemma"] < row["log_det"] for row in rows)
    problem = make_problem(options(**small), 0)
    x = problem.emb.tokens.astype(np.float64)
    theta = problem.theta.astype(np.float64)
    got = lemma.lemma_of(problem.theta, problem.emb.tokens)
    with jax.enable_x64(True):
        h = np.asarray(softmax_model.information(theta, x, reduced=True))
    assert got["log_det"] == pytest.approx(np.linalg.slogdet(h)[1], rel=1e-9)
    with jax.enable_x64(True):  # in the complement, a token of one feature at a time
        of_token = jax.vmap(
            lambda logits: softmax_model.information(logits[None], np.ones((1, 1)), reduced=True)
        )
        least = np.linalg.eigvalsh(np.asarray(of_token(x @ theta))).min()
    assert got["gamma"] == pytest.approx(least, rel=1e-6)
    lower = least * np.kron(np.eye(theta.shape[1] - 1), x.T @ x)
    assert np.linalg.eigvalsh(h - lower).min() > -1e-9 * np.abs(h).max()


def test_autoregressive_features_are_the_labels_before_them():
    problem = make_problem(options(generator="autoregressive", **SMALL), 0)
    types = {}
    for i in range(len(problem.emb)):
        a, b = problem.emb.offsets[i], problem.emb.offsets[i + 1]
        for j in range(a + 1, b):
            x = problem.emb.tokens[j].tobytes()
            assert types.setdefault(int(problem.labels[j - 1]), x) == x
    assert len(set(types.values())) == len(types) == 4
    redrawn = make_problem(options(generator="autoregressive", labels="redrawn", **SMALL), 0)
    np.testing.assert_array_equal(redrawn.emb.tokens, problem.emb.tokens)
    assert (redrawn.labels != problem.labels).any()


def test_errors_are_summed_per_sentence():
    problem = make_problem(options(**SMALL), 0)
    owner = np.repeat(np.arange(len(problem.emb)), problem.emb.lengths)
    own = {"x": problem.emb.tokens, "theta": problem.theta, "owner": owner}
    got = softmax_study._errors(0.5 * problem.theta, own, len(problem.emb))
    each = prediction_errors(0.5 * problem.theta, problem.theta, problem.emb.tokens)
    for name, of_token in zip(("logit", "variation"), each, strict=True):
        sums = np.bincount(owner, np.asarray(of_token, np.float64))
        assert float(got[f"max_sentence_{name}"]) == pytest.approx(sums.max(), rel=1e-5)
        assert float(got[f"mean_sentence_{name}"]) == pytest.approx(sums.mean(), rel=1e-5)
        assert float(got[f"max_{name}"]) == pytest.approx(of_token.max())


def test_the_papers_algorithms_pick_what_we_pick():
    import fisher_jax as fj

    emb = make_problem(options(**SMALL), 0).emb
    ours = fj.select(emb, n_samples=10).ranking.tolist()
    assert algorithm_1(emb, 10)[0] == ours == algorithm_2(emb, 10)[0]


def test_statistics_against_closed_forms():
    e = statistics.estimate([1.0, 2.0, 3.0])
    assert e.mean == 2 and e.half == pytest.approx(4.302653 / np.sqrt(3), rel=1e-5)
    rows = [
        {"setting": {}, "replicate": r, "n": n, "e": (r + 1) * n**-0.5}
        for r in range(3)
        for n in (10, 100, 1000)
    ]
    assert statistics.slope(rows, "n", "e").mean == pytest.approx(-0.5)
    twice = [row | {"e": 2 * row["e"]} for row in rows if row["n"] == 10]
    once = [row for row in rows if row["n"] == 10]
    assert statistics.log_ratio(twice, once, "e")[:2] == pytest.approx((np.log(2), 0))


def test_word_vectors_of_every_format(tmp_path):
    glove = tmp_path / "g.txt"
    glove.write_text("king 1 2 3\nqueen 4 5 6\n, 7 8 9\n")
    word2vec = tmp_path / "w.txt"
    word2vec.write_text("3 3\n" + glove.read_text())
    binary = tmp_path / "w.bin"
    binary.write_bytes(
        b"2 3\n" + b"king " + np.float32([1, 2, 3]).tobytes() + b"\nqueen "
        + np.float32([4, 5, 6]).tobytes() + b"\n"
    )  # fmt: skip
    for path in (glove, word2vec, binary):
        found = read_vectors(str(path), {"queen", "jester"})
        assert list(found) == ["queen"]
        np.testing.assert_array_equal(found["queen"], [4, 5, 6])
    binary.write_bytes(binary.read_bytes()[:-6])
    with pytest.raises(ValueError, match="cut off in vector 2"):
        read_vectors(str(binary), {"queen"})
    for width in (-3, 10**6):
        binary.write_bytes(f"2 {width}\n".encode())
        with pytest.raises(ValueError, match=f"2 vectors of {width} numbers don't fit into it"):
            read_vectors(str(binary), {"queen"})
    word2vec.write_text("queen 1 nan 3\n")
    with pytest.raises(ValueError, match="line 1: not a finite number"):
        read_vectors(str(word2vec), {"queen"})
    glove.write_text("king 1 2 3\nqueen 4 5\n")
    with pytest.raises(ValueError, match=r"line 2: a word and 3 numbers"):
        read_vectors(str(glove), {"queen"})
    with pytest.raises(ValueError, match="there is no file"):
        read_vectors(str(tmp_path / "none.txt"), {"queen"})
    with pytest.raises(ValueError, match="none of the corpus' words"):
        read_vectors(str(word2vec), {"jester"})


def test_fits_side_by_side_are_the_devices(device, device_memory):
    device(fits=4)
    together = softmax_study._side_by_side
    assert [together(n, 100, 300, 10, 5) for n in (1, 4, 5, 9, 12)] == [1, 4, 3, 3, 4]
    device_memory(8 * 2.5 * 4 * (100 * (10**2 + 8 * 5) + 300 * (10 + 8 * 5)))  # two and a half
    assert together(9, 100, 300, 10, 5) == 2


@pytest.mark.parametrize("name", ["uniform", "fisher", "fisher_per_token"])
def test_every_budget_has_the_rows_that_its_own_ranking_gives(name):
    given = options(**SMALL | {"budgets": [2, 4, 7, 12]})
    problem = make_problem(given, 0)
    budgets = softmax_study.budgets_of(problem.emb, given.budgets)
    for choice in softmax_study._choices(problem, name, given, 0):
        budget = budgets[choice.equal][given.budgets.index(choice.n)]
        np.testing.assert_array_equal(choice.rows, rank(problem, name, budget, given, 0))


def test_kept_embeddings_are_those_of_their_model_rows_and_length(tmp_path, monkeypatch):
    monkeypatch.setattr(generators, "cache_folder", lambda: tmp_path / "cache")
    model, texts = language_model(), ["to be or not", "that is the question"]
    emb = generators._embedded(texts, model, 4)
    (kept,) = (tmp_path / "cache").iterdir()
    monkeypatch.chdir(tmp_path)  # from any folder the same file is found
    before = kept.stat().st_mtime_ns
    np.testing.assert_array_equal(generators._embedded(texts, model, 4).tokens, emb.tokens)
    assert kept.stat().st_mtime_ns == before
    assert len(generators._embedded(texts, model, 3).tokens) < len(emb.tokens)
    other = generators._embedded([texts[1], texts[0]], model, 4)
    np.testing.assert_array_equal(other[1], emb[0])
    generators._embedded(texts, model._replace(weights_sha256="another"), 4)
    assert len([*(tmp_path / "cache").iterdir()]) == 4
