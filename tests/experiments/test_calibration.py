"""Judges on pairs whose better text is known, and texts as sets beside real ones."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from omegaconf import OmegaConf

from experiments.judging import main as judging
from experiments.judging.calibration import KINDS, calibrated, known_pairs, passes
from experiments.judging.judge import Answer
from experiments.judging.texts import Texts
from experiments.language.preparation import pool_of
from experiments.language.writing import prompted
from experiments.report.language_texts import calibration, realness
from tests.helpers.experiment_options import language_options as options

WORDS = 24  # that a model writes


@pytest.fixture(scope="module")
def folder(model_folder, tmp_path_factory):
    """A run whose models wrote one word over and over; more of it after less training."""
    folder = tmp_path_factory.mktemp("written")
    given = options(model_folder, selectors=["uniform", "fisher"], n_prompts=48, n_test=150)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(asdict(given))))
    count = len(prompted(pool_of(given, 0).test, given))
    rows = [
        {"setting": {}, "replicate": 0, "selector": name, "equal": "tokens", "n": n}
        | {"texts": [f" {name}" + f" the{n}" * WORDS] * count}
        for name in ("uniform", "fisher")
        for n in (2, 4)
    ]
    (folder / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


class Reader:
    """Prefers these texts, where one is shown, else the first."""

    def __init__(self, good=()):
        self.good = set(good)

    def answer(self, questions, on_progress=None):
        choices = [2 if q.continuations[1] in self.good else 1 for q in questions]
        return [Answer(str(choice), choice) for choice in choices]


def test_pairs_of_known_order_are_real_text_and_more_training(folder):
    texts = Texts(folder)
    known = dict(known_pairs(texts, "{}"))
    assert [*known] == [*KINDS]
    given = texts.options("{}")
    rows = prompted(pool_of(given, 0).test, given)
    whole = {row.text() for row in pool_of(given, 0).test}
    assert len(rows) >= 40 and all(" ".join((p + r).split()) in whole for p, r in rows)
    for one, pair in zip(rows, known[KINDS[0]], strict=True):
        assert (pair.prompt, pair.a) == one
        assert sorted(pair.b.split()) == sorted(one.real.split())
    assert [p.b.split()[0] for p in known[KINDS[1]]] == ["uniform"] * len(rows)
    assert all(len(p.b.split()) == min(len(p.a.split()), WORDS + 1) for p in known[KINDS[1]])
    assert all(" the4" in p.a and " the2" in p.b for p in known[KINDS[2]])


def test_only_a_judge_that_knows_and_has_no_side_passes(folder):
    known = known_pairs(Texts(folder), "{}")
    for one in known:
        for judge, right, position in (
            (Reader(p.a for p in one.pairs), 1, 0.5),
            (Reader(), 0.5, 1),
        ):
            (row,) = calibrated(judge, [one], "Shakespeare")
            assert row["right"][0] == pytest.approx(right, abs=0.02)  # a word alone stays the same
            assert row["position_1"] == pytest.approx(position, abs=0.02)
            assert row["kind"] == one.kind and row["passes"] == (right == 1)
    assert passes(0.8, 0.6) and not passes(0.79, 0.5) and not passes(0.9, 0.61)
    assert not passes(float("nan"), 0.5)


def test_a_judge_is_calibrated_once_and_before_it_judges(folder, monkeypatch, capsys):
    monkeypatch.setattr(judging, "make_judge", lambda kind, args, given: Reader())
    judging.run(judging.parsed([str(folder)]))
    told = capsys.readouterr().err
    assert told.count("FAILS, and gives no table") == 3
    rows = json.loads((folder / "calibrated.json").read_text())
    assert [row["judge"] for row in rows] == ["likelihood"] * 3
    (folder / "calibrated.json").unlink()  # what was judged before has no calibration: it is made
    judging.run(judging.parsed([str(folder)]))
    assert json.loads((folder / "calibrated.json").read_text()) == rows
    capsys.readouterr()
    assert calibration(rows).count("| no |") == 3
    monkeypatch.setattr(judging, "make_judge", None)  # nobody is asked again
    judging.run(judging.parsed([str(folder)]))
    assert "FAILS" not in capsys.readouterr().err
    assert json.loads((folder / "calibrated.json").read_text()) == rows


def test_texts_as_sets_stand_between_real_and_shuffled_ones(folder):
    judging.run(judging.parsed([str(folder), "--realness"]))
    rows = json.loads((folder / "realness.json").read_text())
    names = [row["selector"] for row in rows]
    assert names == ["real", "shuffled", "uniform", "uniform", "fisher", "fisher"]
    of = {row["selector"]: row for row in rows}
    assert of["real"]["told_apart"] is None and of["real"]["mauve"] > of["uniform"]["mauve"]
    assert of["uniform"]["told_apart"][1] > 0.95  # one word over and over
    assert np.isfinite([row["mauve"] for row in rows]).all()
    assert realness(rows).count("\n") >= 7
