import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fisher_jax as fj
from fisher_jax.design import Budget, take
from fisher_jax.selectors import SELECTORS, registry, rule
from fisher_jax.selectors.table import page
from tests.helpers.references import DIM, N

pytestmark = pytest.mark.usefixtures("small_buckets")


def cut_short(value):
    if isinstance(value, fj.TokenEmbeddings):
        return fj.TokenEmbeddings(value.tokens[:, :-1], value.offsets)
    return value[:-1, :-1] if value.ndim == 2 else value[:-1]


@pytest.mark.parametrize("name", SELECTORS)
def test_every_selector_keeps_its_budget_and_its_seed(name, emb, choose):
    one = choose(name, n_samples=12, seed=3)
    assert len(set(one.ranking.tolist())) == 12 and one.ranking.dtype == np.int64
    again = choose(name, n_samples=12, seed=3)
    assert one.ranking.tobytes() == again.ranking.tobytes()
    np.testing.assert_allclose(one.gains, fj.evaluate(emb, one.ranking).gains, rtol=1e-5)
    by_tokens = choose(name, token_budget=50, seed=3)
    spent = emb.lengths[by_tokens.ranking].sum()
    assert 35 < spent <= 50 and len(set(by_tokens.ranking.tolist())) == len(by_tokens.ranking)
    whole = choose(name, n_samples=N, seed=3)
    assert sorted(whole.ranking.tolist()) == list(range(N))


@pytest.mark.parametrize("name", SELECTORS)
def test_what_is_missing_unknown_or_of_another_pool_is_said(name, emb, extras, choose):
    with pytest.raises(TypeError, match="colour"):
        choose(name, n_samples=3, colour=1)
    if not (needs := SELECTORS[name].needs):
        return
    with pytest.raises(ValueError, match=f"'{name}' needs {needs[0]}="):
        SELECTORS[name](emb, n_samples=3)
    with pytest.raises(ValueError, match=f"{needs[0]} .*must"):
        choose(name, {k: cut_short(v) for k, v in extras.items()}, n_samples=3)
    if needs[0] != "targets":
        broken = extras | {needs[0]: extras[needs[0]] * np.nan}
        with pytest.raises(ValueError, match=f"{needs[0]} must be .*finite"):
            choose(name, broken, n_samples=3)


def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(KeyError) as told:
        SELECTORS["fischer"]
    assert str(told.value) == "there is no selector 'fischer': did you mean 'fisher'?"
    with pytest.raises(ValueError, match="no selector 'zzz': known: uniform, longest"):
        SELECTORS["zzz"]
    assert SELECTORS.get("fischer") is None and "fischer" not in SELECTORS


def test_a_rule_is_one_decorated_function(emb, monkeypatch):
    monkeypatch.setattr(registry, "SELECTORS", registry.Rules())

    @rule("rows of the least first number", needs=("sign",))
    def leaning(emb, budget, terms, *, sign):
        return take(budget, np.argsort(sign * emb.pooled("mean")[:, 0], kind="stable"))

    expected = np.argsort(-emb.pooled("mean")[:, 0], kind="stable")[:5]
    got = registry.SELECTORS["leaning"](emb, n_samples=5, sign=-1.0)
    np.testing.assert_array_equal(got.ranking, expected)
    with pytest.raises(ValueError, match="two rules of the name 'leaning'"):
        rule("the same again")(leaning)


def test_the_page_in_the_docs_is_that_of_the_rules_and_its_code_runs():
    text = Path("docs/selectors.md").read_text()
    assert text == page(), "python -m fisher_jax.selectors > docs/selectors.md"
    code = text.split("```python\n")[1].split("```")[0]
    exec(code, {})
    del SELECTORS["shortest"]


def test_rules_are_known_without_jax():
    program = """if True:
        import sys
        from fisher_jax.selectors import SELECTORS, listing
        assert all(name + ": " in listing() for name in SELECTORS)
        print(len(SELECTORS), *({"jax", "scipy", "sklearn", "matplotlib"} & {*sys.modules}))
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == [str(len(SELECTORS))], done.stderr


@pytest.mark.parametrize("name", [name for name, rule in SELECTORS.items() if rule.nested])
def test_a_nested_rule_takes_the_first_of_those_of_more(name, choose):
    more = choose(name, n_samples=12, seed=3).ranking
    np.testing.assert_array_equal(choose(name, n_samples=7, seed=3).ranking, more[:7])


@pytest.mark.parametrize(
    "name", [name for name, rule in SELECTORS.items() if rule.criterion is not None]
)
def test_a_criterion_is_an_option_of_every_rule_that_goes_by_gains(name, choose):
    own = SELECTORS[name].criterion
    other = "gain" if own == "gain_per_cost" else "gain_per_cost"
    as_is = choose(name, token_budget=60)
    np.testing.assert_array_equal(
        choose(name, token_budget=60, criterion=own).ranking, as_is.ranking
    )
    assert choose(name, token_budget=60, criterion=other).ranking.tolist() != as_is.ranking.tolist()


LOOPS = ["fisher", "fisher_per_token", "sentence_od", "i_optimal", "i_optimal_per_token"]


@pytest.mark.parametrize("name", [*LOOPS, "exact_information", "fisher_mixed"])
def test_progress_of_long_rules_is_told(name, choose):
    seen = []
    quiet = choose(name, n_samples=12)
    told = choose(name, n_samples=12, on_progress=seen.append)
    np.testing.assert_array_equal(told.ranking, quiet.ranking)
    assert seen == sorted(seen) and seen[-1] == (6 if name == "fisher_mixed" else 12)
    choose(name, token_budget=50, on_progress=seen.append)
    assert 6 <= seen[-1] <= 50


def test_a_selectors_signature_is_that_of_a_call():
    parameters = inspect.signature(SELECTORS["k_center"]).parameters
    assert {"n_samples", "token_budget", "costs", "seed"} <= {*parameters}
    assert "Sener" in SELECTORS["k_center"].__doc__


def test_uniform_draws_every_row_equally_often(emb):
    counts = np.zeros(N)
    for seed in range(600):
        counts[SELECTORS["uniform"].rank(emb, Budget.of(emb, n_samples=10), seed=seed)] += 1
    assert np.sum((counts - 150) ** 2 / (150 * 0.75)) < 75  # chi-squared, 39 degrees


def test_longest_goes_by_length_and_then_index(emb):
    ranking = SELECTORS["longest"](emb, n_samples=N).ranking
    assert ranking.tolist() == sorted(range(N), key=lambda i: (-emb.lengths[i], i))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_is_a_whole_number_from_zero(emb, seed):
    with pytest.raises(ValueError, match="seed must be a whole number from 0"):
        SELECTORS["uniform"](emb, n_samples=2, seed=seed)


@pytest.mark.parametrize(
    ("theta", "message"),
    [
        (np.ones((DIM, 1)), "L >= 2, got shape"),
        (np.ones((DIM + 1, 3)), f"D = {DIM}"),
        (np.full((DIM, 3), np.inf), "theta must be finite"),
    ],
)
def test_a_theta_that_no_model_has_is_refused(emb, theta, message):
    with pytest.raises(ValueError, match=message):
        SELECTORS["exact_information"](emb, n_samples=2, theta=theta)
