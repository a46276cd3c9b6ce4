"""The claims of RESULTS.md: what was published, what we measured, the verdict of the numbers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from experiments.report.language_texts import wins_of_models
from experiments.report.published import PUBLISHED
from experiments.report.runs import Run
from experiments.report.statistics import difference, estimate, log_ratio, percent
from experiments.report.tables import in_percent, nats, plain
from experiments.report.verdicts import (
    HOLDS,
    NOT,
    NOT_SHOWN,
    Points,
    at_most,
    beats,
    near,
    told,
)

Runs = Mapping[str, Any]  # STUDY/EXPERIMENT: run
PAPER = f"{PUBLISHED.fishersft}: "
UNPUBLISHED = "no figure that we know of"
WORSE = 5  # per cent that still count as no worse


@dataclass(frozen=True)
class Claim:
    """One claim, with the run that decides it.

    Attributes:
        title: the claim.
        published: figure and source.
        ours: the same figure of ours, with intervals.
        verdict: holds, only by length, not, or not shown, by the numbers.
        run: that decides it.
        figure: in the run's folder.
    """

    title: str
    published: str
    ours: str
    verdict: str
    run: Run
    figure: str


def claims(runs: Runs) -> list[Claim]:
    """All claims whose runs are there."""
    return [make(runs[name]) for name, make in OF_RUN if name in runs]


def smaller_error(r: Run) -> Claim:
    """The paper's first figure."""
    tokens, examples = _against(r, "fisher", "mean_logit", 50, 200, 1000)
    return Claim(
        "FisherSFT's rows give a smaller error than as many uniform ones (Gaussian features)",
        f"{PAPER}smaller at every n, equal examples",
        f"mean logit error against uniform's at equal examples {_in_percent(examples)}; at equal "
        f"tokens {_in_percent(tokens)}",
        beats(tokens, examples),
        r,
        "forest_mean_logit",
    )


def half_the_rows(r: Run) -> Claim:
    """So many rows do what twice as many uniform ones do."""
    many = PUBLISHED.saving

    def less(kind: str) -> Points:
        return {
            f"at n = {n}": percent(
                log_ratio(
                    r.of(selector="fisher", equal=kind, n=n),
                    r.of(selector="uniform", equal=kind, n=many * n),
                    "mean_logit",
                )
            )
            for n in r.ns
            if many * n in r.ns
        }

    tokens, examples = less("tokens"), less("examples")
    return Claim(
        f"n rows of FisherSFT do what {many} n uniform ones do",
        f"{PAPER}{PUBLISHED.saving_examples:,} do what {many * PUBLISHED.saving_examples:,} do",
        f"error less that of {many} n uniform rows: at equal examples {_in_percent(examples)}; at "
        f"equal tokens {_in_percent(tokens)}",
        _no_worse(tokens, examples),
        r,
        "mean_logit",
    )


def rate(r: Run) -> Claim:
    """The slope of the error."""
    point = {"metric": "mean_logit", "equal": "tokens"}
    slopes = {name: r.slope(name, **point) for name in ("uniform", "fisher")}
    return Claim(
        f"The error falls with n at a log-log slope of about {PUBLISHED.slope}",
        f"{PAPER}as its figures are described; its theory has {PUBLISHED.theory}",
        "at equal tokens "
        + ", ".join(f"`{name}` {plain(e)}" for name, e in slopes.items())
        + f", ridge of the fit {r.options.fit_ridge}; stronger ridges put a floor under the error "
        "([synthetic/bias](results/synthetic/bias/README.md))",
        HOLDS if any(near(e, PUBLISHED.slope) for e in slopes.values()) else NOT,
        r,
        "slopes",
    )


def faster(r: Any) -> Claim:
    """The fast algorithm."""
    ratios = {n: r.speed_up(n, "algorithm_1", "algorithm_2") for n in (r.ns[0], r.ns[-1])}
    ours = {n: r.speed_up(n, "algorithm_2", "fisher_jax") for n in (r.ns[0], r.ns[-1])}
    low, high = PUBLISHED.faster
    same = all(row["same_in_float64"] for row in r.rows if "shared" in row)
    return Claim(
        "Lazy evaluation of gains makes greedy selection faster",
        f"{PAPER}{low} or {high} times at N = {PUBLISHED.faster_pool:,} (the text is ambiguous)",
        ", ".join(f"{x:.0f} times at n = {n}" for n, x in ratios.items())
        + "; this library beyond that "
        + ", ".join(f"{x:.1f} times at n = {n}" for n, x in ours.items())
        + (", with the fast algorithm's rows in its order" if same else ", other rows"),
        HOLDS if min(ratios.values()) > 1 and same else NOT,
        r,
        "seconds",
    )


def growth(x: str, label: str) -> Callable[[Run], Claim]:
    """The theorem's dependence on an option."""

    def made(r: Run) -> Claim:
        n = r.near(1000)[0]
        exponents = {
            metric: r.slope("fisher", f"{metric}_logit", x, equal="tokens", n=n)
            for metric in ("mean", "max")
        }
        return Claim(
            f"The error grows at most linearly with {label}",
            f"{PAPER}theorem, O(d L / sqrt n)",
            f"exponents at n = {n}, equal tokens: "
            + ", ".join(f"{metric} error {plain(e)}" for metric, e in exponents.items()),
            at_most(exponents.values(), 1),
            r,
            f"mean_logit_{x}",
        )

    return made


def stand_in(r: Any) -> Claim:
    """The bound instead of the information."""
    correlations = {n: r.correlation(n) for n in r.ns}
    return Claim(
        "The d x d bound ranks sets like the exact information",
        f"{PAPER}its figure of both, no number",
        "rank correlation over random sets "
        + ", ".join(f"{plain(e)} (n = {n})" for n, e in correlations.items()),
        HOLDS if all(e.mean > e.half for e in correlations.values()) else NOT_SHOWN,
        r,
        "bound",
    )


def lower_bound(r: Any) -> Claim:
    """Lemma 3.1."""
    (n,) = r.near(100)
    point = {"selector": "fisher", "n": n}
    both = {
        g: [r.of_point(key, generator=g, **point).mean for key in ("lemma", "log_det")]
        for g in r.values("generator")
    }
    vacuous = all(bound < 0 < exact for bound, exact in both.values())
    return Claim(
        "The exact information is at least what Lemma 3.1 says",
        f"{PAPER}Lemma 3.1, a proof",
        f"bound and exact information of {n} FisherSFT rows, in nats: "
        + ", ".join(f"{b:.0f} and {e:.0f} ({g})" for g, (b, e) in both.items()),
        (HOLDS + (", and is vacuous" if vacuous else "")) if r.is_true else NOT,
        r,
        "lemma",
    )


def per_token(r: Run) -> Claim:
    """Information per token on heterogeneous features."""
    (n,) = r.near(150)
    points: Points = {
        f"on history `{h}`": r.estimate_against(
            "fisher_per_token", "max_logit", history=h, equal="tokens", n=n
        )
        for h in r.values("history")
    }
    plain_fisher = {
        h: r.against("fisher", "max_logit", history=h, equal="tokens", n=n)
        for h in r.values("history")
    }
    return Claim(
        "Information per token beats uniform rows at equal tokens on word embeddings",
        UNPUBLISHED,
        f"maximum error against uniform's at n = {n}: {_in_percent(points)}; FisherSFT by rows "
        + ", ".join(f"{t} (`{h}`)" for h, t in plain_fisher.items()),
        beats(points),
        r,
        "forest_max_logit",
    )


def real_labels(r: Run) -> Claim:
    """The next word."""
    tokens, examples = _against(r, "fisher", "held_out_nll", 50, 150, 1000)
    return Claim(
        "FisherSFT lowers the held-out loss on real next words",
        UNPUBLISHED,
        f"NLL against uniform's at equal examples {_in_percent(examples, 1)}; at equal tokens "
        f"{_in_percent(tokens, 1)}",
        beats(tokens, examples),
        r,
        "forest_held_out_nll",
    )


def bias(r: Run) -> Claim:
    """Selection by labels."""
    (n,) = r.near(200)
    (of_labels, redrawn) = (
        {
            f"at ridge {ridge}": r.estimate_against(
                "fisher", "mean_logit", labels=labels, fit_ridge=ridge, n=n
            )
            for ridge in r.values("fit_ridge")
        }
        for labels in ("generated", "redrawn")
    )
    worse = told(of_labels).worse
    return Claim(
        "Selecting rows by embeddings that depend on their labels biases the fit",
        UNPUBLISHED,
        f"mean error against uniform's at n = {n}, features set by the labels: "
        f"{_in_percent(of_labels)}; the same rows with labels redrawn: {_in_percent(redrawn)}",
        HOLDS
        if len(worse) == len(of_labels)
        else f"{HOLDS} {', '.join(worse)} only"
        if worse
        else NOT_SHOWN,
        r,
        "forest_mean_logit",
    )


def language(r: Any) -> Claim:
    """LoRA on clean text."""
    tokens, examples = (
        {f"at n = {n}": r.less("fisher", equal=kind, n=n) for n in r.options.budgets}
        for kind in ("tokens", "examples")
    )
    return Claim(
        "FisherSFT's rows lower a fine-tuned model's held-out loss (clean Shakespeare, LoRA)",
        f"{PAPER}judged by GPT-4o only, see the next claim",
        f"NLL less uniform's, nats a token, at equal examples {_in_nats(examples)}; at equal "
        f"tokens {_in_nats(tokens)}",
        beats(tokens, examples),
        r,
        "forest_budgets",
    )


def preferred(r: Any) -> Claim:
    """Judged texts."""
    shares = {
        v["equal"]: estimate(wins_of_models(v, r.options.n_prompts))
        for v in r.verdicts
        if (v["judge"], v["selector"], v["naming"]) == ("likelihood", "fisher", "neutral")
        and v.get("against", "uniform") == "uniform"
    }
    wins = [x for key, xs in PUBLISHED.judged.items() if "uniform" in str(key) for x in xs]
    is_known = "likelihood" in {row["judge"] for row in r.calibrations}
    known = "" if is_known else ", not calibrated"
    decided = all(abs(e.mean - 0.5) > e.half for e in shares.values())
    up = all(e.mean > 0.5 for e in shares.values())
    return Claim(
        "Texts of models tuned on FisherSFT's rows are preferred to uniform's",
        f"{PAPER}{min(wins)} to {max(wins)} of pairs (GPT-4o, GPT-2)",
        f"by likelihood{known}, over models, "
        + ", ".join(f"{plain(e)} of pairs at equal {kind}" for kind, e in shares.items())
        + "; judges as strong as the paper's were not run",
        (HOLDS if up else NOT) if shares and decided else NOT_SHOWN,
        r,
        "curves",
    )


def messy(title: str, selector: str, opponent: str, published: str) -> Callable[[Any], Claim]:
    """One rule against an opponent on the messy pools."""

    def made(r: Any) -> Claim:
        points = {
            f"on `{pool}`": r.less(
                selector, opponent, pool=pool, equal="tokens", n=r.options.budgets[0]
            )
            for pool in r.values("pool")
        }
        return Claim(
            title,
            published,
            f"NLL less that of `{opponent}` at equal tokens, nats a token: {_in_nats(points)}",
            beats(points),
            r,
            "forest_held_out_nll",
        )

    return made


def clean(r: Any) -> Claim:
    """Any rule on clean pools."""
    points = {
        f"`{name}` on {corpus}": r.less(name, corpus=corpus, equal="tokens", n=r.options.budgets[0])
        for corpus in r.values("corpus")
        for name in r.values("selector")
        if name != "uniform"
    }
    return Claim(
        "A rule that is told of the task beats uniform rows on clean pools",
        UNPUBLISHED,
        f"NLL less uniform's at equal tokens, nats a token: {_in_nats(points)}",
        beats(points),
        r,
        "forest_held_out_nll",
    )


def proxy(r: Any) -> Claim:
    """A small model selects for a larger one."""
    of_self, of_other = r.values("proxy")
    n = r.options.budgets[0]
    points = {
        f"`{name}` on {pool}": difference(
            r.of(selector=name, pool=pool, equal="tokens", n=n, proxy=of_other),
            r.of(selector=name, pool=pool, equal="tokens", n=n, proxy=of_self),
            "held_out_nll",
        )
        for pool in r.values("pool")
        for name in r.values("selector")
        if name != "uniform"
    }
    return Claim(
        "A small model of another family selects as well as the model itself",
        UNPUBLISHED,
        f"NLL with its rows less that with the model's own, nats a token: {_in_nats(points)}",
        f"{NOT}: worse {', '.join(worse)}" if (worse := told(points).worse) else NOT_SHOWN,
        r,
        "",
    )


def _against(r: Run, selector: str, metric: str, *ns: int) -> tuple[Points, Points]:
    """Differences to uniform in percent, at equal tokens and at equal examples."""
    tokens, examples = (
        {f"at n = {n}": r.estimate_against(selector, metric, equal=kind, n=n) for n in r.near(*ns)}
        for kind in ("tokens", "examples")
    )
    return tokens, examples


def _no_worse(tokens: Points, examples: Points) -> str:
    """The verdict on "it is at least as good", which no interval that is wide can hold."""
    if not told(tokens).worse:
        return at_most(tokens.values(), WORSE)
    worse = told(examples).worse
    if not worse:
        return "only by length"
    return "only by length, and not " + ", ".join(worse) if len(worse) < len(examples) else NOT


def _in_percent(points: Points, digits: int = 0) -> str:
    return ", ".join(f"{in_percent(e, digits)} {where}" for where, e in points.items())


def _in_nats(points: Points) -> str:
    return ", ".join(f"{nats(e)} {where}" for where, e in points.items())


OF_RUN: list[tuple[str, Callable[[Any], Claim]]] = [
    ("synthetic/paper", smaller_error),
    ("synthetic/paper", half_the_rows),
    ("synthetic/paper", rate),
    ("synthetic/runtime", faster),
    ("synthetic/sweep_d", growth("dim", "the width d")),
    ("synthetic/sweep_l", growth("n_labels", "the number of labels L")),
    ("synthetic/information", stand_in),
    ("synthetic/lemma", lower_bound),
    ("words/paper", per_token),
    ("words/next_word", real_labels),
    ("synthetic/bias", bias),
    ("language/cpu", language),
    ("language/cpu", preferred),
    (
        "language/lora_study",
        messy(
            "FisherSFT beats uniform rows on messy pools (LoRA)", "fisher", "uniform", UNPUBLISHED
        ),
    ),
    (
        "language/lora_study",
        messy(
            "Information per token beats uniform rows on messy pools (LoRA)",
            "fisher_per_token",
            "uniform",
            UNPUBLISHED,
        ),
    ),
    (
        "language/lora_study",
        messy(
            "Rows chosen for a task beat uniform rows on messy pools (RDS+, LoRA)",
            "rds",
            "uniform",
            f"{PUBLISHED.rds}: for instruction data; other sizes",
        ),
    ),
    (
        "language/lora_study",
        messy(
            "The same, centred and without near duplicates, beats uniform rows (LoRA)",
            "near_rds_centred",
            "uniform",
            UNPUBLISHED,
        ),
    ),
    (
        "language/lora_study",
        messy(
            "It also beats training on the task's known rows themselves, with no selection",
            "near_rds_centred",
            "task_rows",
            UNPUBLISHED,
        ),
    ),
    ("language/clean", clean),
    ("language/proxy", proxy),
]
