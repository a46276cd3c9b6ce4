"""The noise of trainings, the replicates that it asks for, and tests of one family."""

import json
import sys

import numpy as np
import pytest
from scipy import stats

from experiments.language import noise as command
from experiments.report import language_texts
from experiments.report.statistics import holm, noise, replicates_for


def planted(training=0.02, replicate=0.05, n=400, trainings=3, seed=0):
    """Rows of two rules whose paired difference has these parts."""
    rng = np.random.default_rng(seed)
    rows = []
    for k in range(n):
        pool = rng.normal(0, 1)  # the same for both
        for name in ("uniform", "fisher"):
            mean = pool + rng.normal(0, replicate / np.sqrt(2)) - 0.1 * (name == "fisher")
            own = mean + rng.normal(0, training, trainings)
            rows.append(
                {"setting": {}, "replicate": k, "selector": name, "equal": "tokens", "n": 100}
                | {"held_out_nll": own.mean(), "of_training": [{"held_out_nll": x} for x in own]}
                | {"learning_rate": 0.001, "unsteady": k % 2, "diverged": 0}
            )
    return rows


def test_the_parts_of_the_noise_are_told_apart():
    rows = planted()
    uniform, fisher = rows[::2], rows[1::2]
    found = noise(fisher, uniform, "held_out_nll")
    assert found.training == pytest.approx(0.02, rel=0.1) and found.cells == 400
    of_difference = np.sqrt(0.05**2 + 2 * 0.02**2 / 3)
    assert found.replicate == pytest.approx(of_difference, rel=0.1)
    with pytest.raises(ValueError, match="no row has two trainings"):
        noise([row | {"of_training": row["of_training"][:1]} for row in rows], rows, "held_out_nll")


def test_so_many_replicates_have_an_interval_below_the_difference():
    for sd in (0.005, 0.02, 0.05):
        n = replicates_for(0.02, sd)
        assert n is not None
        half = [stats.t.ppf(0.975, k - 1) * sd / np.sqrt(k) for k in (n - 1, n) if k > 1]
        assert half[-1] < 0.02 and (n == 2 or half[0] >= 0.02)
    assert replicates_for(0.02, 10.0) is None


def test_holms_values_are_those_of_its_definition():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1]
    with_none = holm([0.02, float("nan"), 0.01])
    assert np.isnan(with_none[1]) and with_none[::2] == pytest.approx([0.02, 0.02])


def test_the_command_tells_every_spread(tmp_path, monkeypatch, capsys):
    rows = planted(n=6)
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(sys, "argv", ["noise", str(tmp_path), "--difference", "0.05"])
    command.main()
    told = capsys.readouterr().out.splitlines()
    lines = json.loads((tmp_path / "noise.json").read_text())
    shown = language_texts.noise(lines).splitlines()
    assert len(shown) == 4 and shown[2].startswith("| 0.001 | uniform | ")
    assert shown[2].endswith(" |  |  | 3, 0 |")
    assert f"{lines[1]['replicate']:.4f}" in shown[3]
    assert [line["selector"] for line in lines] == ["uniform", "fisher"]
    assert lines[1]["replicates"] == replicates_for(0.05, lines[1]["replicate"])
    assert lines[0]["unsteady"] == 3 and lines[0]["rates"] == [0.001]
    assert f"0.05 nats take {lines[1]['replicates']} replicates" in told[1]
    monkeypatch.setattr(sys, "argv", ["noise", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2 and "no rows: run the experiment first" in capsys.readouterr().err
