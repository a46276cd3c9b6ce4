"""How each rule did beside uniform rows, in a line: `fisher_jax/selectors/measured.json`."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.report.statistics import Estimate, difference, log_ratio, percent
from experiments.report.tables import in_percent, nats
from fisher_jax.selectors import SELECTORS

NLL = "held_out_nll"
YARDSTICK = "what the others are measured against"


class Point(NamedTuple):
    """Where a rule was measured: a kept run, a metric and the values of one of its points."""

    label: str
    run: str
    metric: str
    where: dict[str, Any]


def _pools(run: str, n: int) -> list[Point]:
    """The three pools of a language study, at equal tokens."""
    names = {"copies": "duplicates", "a mixed pool": "imbalance", "noise": "noise"}
    return [
        Point(label, run, NLL, {"equal": "tokens", "n": n, "pool": pool})
        for label, pool in names.items()
    ]


# the nearest to fine-tuning first: a rule is told by the first of them that has it
SETUPS: dict[str, list[Point]] = {
    "LoRA, equal tokens, nats a token": [
        Point("clean text", "language/cpu", NLL, {"equal": "tokens", "n": 200}),
        Point(
            "clean text",
            "language/clean",
            NLL,
            {"equal": "tokens", "n": 100, "corpus": "shakespeare"},
        ),
        *_pools("language/lora_study", 100),
    ],
    "last layer alone, equal tokens, nats a token": _pools("language/study", 100),
    "last layer alone, equal tokens, loss in percent": [
        Point("clean text", "words/next_word", NLL, {"equal": "tokens", "n": 150})
    ],
    "planted problem, n = 200, equal tokens, mean error in percent": [
        Point("", "synthetic/paper", "mean_logit", {"equal": "tokens", "n": 200})
    ],
    "planted problem, n = 200, equal tokens, maximum error in percent": [
        Point("", "synthetic/exact", "max_logit", {"equal": "tokens", "n": 200})
    ],
    "planted sequences of one length, n = 200, mean error in percent": [
        Point("", "synthetic/remedies", "mean_logit", {"equal": "examples", "n": 200})
    ],
}


def measured(runs: Mapping[str, Any]) -> str:
    """The file: by rule, its differences to uniform rows with 95% intervals; below 0 is better."""
    lines = {name: _line(name, runs) for name in SELECTORS}
    lines["uniform"] = YARDSTICK
    lines = {name: line for name, line in lines.items() if line}
    return json.dumps(lines, indent=1, ensure_ascii=False) + "\n"


def _line(name: str, runs: Mapping[str, Any]) -> str:
    """Of the first setup that has the rule; empty where none has."""
    for setup, points in SETUPS.items():
        told = [
            f"{p.label} {_less(name, runs[p.run], p)}".lstrip() for p in _having(name, runs, points)
        ]
        if told:
            return f"{setup}: {', '.join(told)}"
    return ""


def _having(name: str, runs: Mapping[str, Any], points: list[Point]) -> list[Point]:
    """The points at which a rule was run, the first of each label."""
    found: dict[str, Point] = {}
    for point in points:
        if point.run in runs and runs[point.run].of(selector=name, **point.where):
            found.setdefault(point.label, point)
    return [*found.values()]


def _less(name: str, run: Any, point: Point) -> str:
    """The difference to uniform: in nats a token of losses of language, else in percent."""
    own, uniform = (run.of(selector=of, **point.where) for of in (name, "uniform"))
    if run.study == "language":
        return str(nats(difference(own, uniform, point.metric)))
    ratio: Estimate = percent(log_ratio(own, uniform, point.metric))
    return str(in_percent(ratio, digits=1 if point.metric == NLL else 0)).removesuffix(" %")
