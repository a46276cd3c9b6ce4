"""Select, fit, measure: the study that the synthetic and the word-embedding experiments share."""

import functools
import os
import sys
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from tqdm import tqdm

from experiments.run.harness import Wandb
from experiments.run.results import RUNTIME_KEYS
from fisher_jax.design import Budget, TokenEmbeddings, draw_fisher, ladder, take
from fisher_jax.design.linalg import one_blas_thread
from fisher_jax.design.softmax_model import fit, log_likelihood, prediction_errors
from fisher_jax.selectors import SELECTORS, Rule
from fisher_jax.util.checks import check_seed, did_you_mean
from fisher_jax.util.errors import UserError
from fisher_jax.util.platforms import here, within_memory

MAX_SEED = 40_000  # a replicate's is 100,003 times as large, and 32 bits must hold it
GROUPS = 4  # padded sizes of a setting's fits, at most
GROUP_SIZE = 1 << 22  # products of a Newton step that are worth a size of their own
TOLD = {"losses", "probabilities", "theta"}  # what a rule may need: a study has no more to tell
KNOWN = [
    *(name for name, rule in SELECTORS.items() if {*rule.needs} <= TOLD),
    "fisher_prompt",  # fisher, by the tokens that no label has influenced
    "fisher_random_unweighted",  # fisher_random without its weights in the fit
]


@dataclass
class StudyOptions:
    """Options that every study has.

    Raises:
        ValueError: a value out of range, an unknown selector or grid key; the message names it.
    """

    name: str
    dim: int
    n_labels: int
    n_examples: int
    theta_scale: float
    ridge: float
    fit_ridge: float
    budgets: list[int]
    selectors: list[str]
    replicates: int
    seed: int
    grid: dict[str, list[Any]] = field(default_factory=dict)
    overwrite: bool = False
    wandb: Wandb = field(default_factory=Wandb)

    def __post_init__(self) -> None:
        positive(self, "dim n_examples theta_scale ridge fit_ridge replicates")
        if self.n_labels < 2:
            raise UserError(f"n_labels must be at least 2, got {self.n_labels}")
        check_selectors(self, KNOWN)
        check_seed(self.seed, most=MAX_SEED)
        if not self.budgets or sorted(set(self.budgets)) != list(self.budgets):
            raise UserError(f"budgets must rise, got {self.budgets}")
        if self.budgets[0] < 1 or self.budgets[-1] > self.n_examples:
            raise UserError(
                f"budgets must be from 1 to n_examples = {self.n_examples}, got {self.budgets}"
            )
        check_grid(self)


def one_of(options: Any, key: str, allowed: list[str]) -> None:
    """Refuse an option that is none of its values."""
    if getattr(options, key) not in allowed:
        raise UserError(f"{key} must be one of {', '.join(allowed)}, got {getattr(options, key)}")


def positive(options: Any, keys: str) -> None:
    """Refuse options that are not above zero and finite."""
    for key in keys.split():
        if not 0 < getattr(options, key) < float("inf"):
            raise UserError(f"{key} must be above 0 and finite, got {getattr(options, key)}")


def check_selectors(options: Any, known: Collection[str]) -> None:
    """Refuse none, one that is not known, and one that is there twice."""
    names = options.selectors
    for name in names:
        if name not in known:
            raise UserError(f"selectors has an unknown name {name!r}: {did_you_mean(name, known)}")
    if not names or len(set(names)) < len(names):
        raise UserError(f"selectors must be one or more, each once, got {[*names]}")


def check_grid(options: Any) -> None:
    """Refuse a grid of what is no option, or of no values."""
    for key, values in options.grid.items():
        if key not in options.__dataclass_fields__ or key in ("name", "grid", *RUNTIME_KEYS):
            raise UserError(f"grid has an unknown option {key!r}")
        if not values:
            raise UserError(f"grid has no values of {key}: give one or more")


class Problem(NamedTuple):
    """One replicate: a pool with labels, the truth where it is planted, a held-out set if any."""

    emb: TokenEmbeddings
    labels: Int[np.ndarray, "T"]
    theta: Float[np.ndarray, "D L"] | None
    prompt: TokenEmbeddings | None = None
    held_out: tuple[Float[np.ndarray, "H D"], Int[np.ndarray, "H"]] | None = None


class Pick(NamedTuple):
    """The rows that a selector chose for one budget, and their weights in the fit."""

    selector: str
    equal: str
    n: int
    replicate: int
    rows: Int[np.ndarray, "n"]
    weights: Float[np.ndarray, "n"]


def study(
    options: Any, setting: dict, make_problem: Callable[[Any, int], Problem]
) -> list[dict[str, Any]]:
    """Rows of one setting: every selector at every budget, at equal examples and equal tokens."""
    label = " ".join(f"{k}={v}" for k, v in setting.items()) or options.name
    total = options.replicates * len(options.selectors)

    def select_all(replicate: int) -> tuple[Problem, list[Pick]]:
        problem, chosen = make_problem(options, replicate), []
        for name in options.selectors:
            chosen += _choices(problem, name, options, replicate)
            bar.update()
        return problem, chosen

    # replicates side by side, one BLAS thread each: their many small products gain by it
    with (
        tqdm(total=total, desc=f"{label}: selecting", unit="selector") as bar,
        one_blas_thread(),
        ThreadPoolExecutor(os.cpu_count()) as executor,
    ):
        problems, of_replicate = zip(
            *executor.map(select_all, range(options.replicates)), strict=True
        )
    choices = [choice for chosen in of_replicate for choice in chosen]
    metrics = fit_all(problems, choices, options, label)
    rows = []
    for choice, of_choice in zip(choices, metrics, strict=True):
        lengths = problems[choice.replicate].emb.lengths
        rows.append(
            {
                "selector": choice.selector,
                "equal": choice.equal,
                "n": choice.n,
                "replicate": choice.replicate,
                "rows": len(choice.rows),
                "tokens": int(lengths[choice.rows].sum()),
            }
            | of_choice
        )
    return rows


def _choices(problem: Problem, name: str, options: Any, replicate: int) -> list[Pick]:
    emb, choices = problem.emb, []
    for equal, budgets in budgets_of(emb, options.budgets).items():
        # n examples are the first n of more; of tokens no budget's rows are those of another,
        # since what no longer fits is passed over
        nested = equal == "examples" and rule_of(name).nested
        whole = rank(problem, name, budgets[-1], options, replicate) if nested else None
        for n, budget in zip(options.budgets, budgets, strict=True):
            if whole is not None:
                rows, weights = take(budget, whole), None
            elif rule_of(name).name == "fisher_random":
                draw = draw_fisher(emb, budget, ridge=options.ridge, seed=_seed(options, replicate))
                rows, weights = draw.ranking, draw.weights
            else:
                rows, weights = rank(problem, name, budget, options, replicate), None
            if weights is None or name == "fisher_random_unweighted":
                weights = np.ones(len(rows))
            choices.append(Pick(name, equal, n, replicate, rows, weights))
    return choices


def budgets_of(emb: TokenEmbeddings, sizes: list[int]) -> dict[str, list[Budget]]:
    """n rows each, and the tokens of n average rows each; one of them where lengths are equal."""
    budgets = {"examples": [Budget.of(emb, n_samples=n) for n in sizes]}
    if np.ptp(emb.lengths):
        budgets["tokens"] = [Budget.of(emb, token_budget=n * emb.lengths.mean()) for n in sizes]
    return budgets


def rank(
    problem: Problem, name: str, budget: Budget, options: Any, replicate: int
) -> Int[np.ndarray, "n"]:
    """A selector's ranking. Those that need a model are given the planted one, an oracle."""
    emb = problem.emb
    if name == "fisher_prompt":
        assert problem.prompt is not None  # options without a prompt refuse the name
        return rule_of(name).rank(problem.prompt, budget, ridge=options.ridge)
    extra: dict[str, Any] = {}
    needs = SELECTORS[name].needs
    if "losses" in needs:  # of the model before training, Theta = 0
        extra["losses"] = np.full(len(emb), np.log(options.n_labels))
    if needs_theta(name):
        assert problem.theta is not None  # options without a Theta refuse the name
        logits = emb.tokens @ problem.theta
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        known = {"theta": problem.theta, "probabilities": p / p.sum(axis=1, keepdims=True)}
        extra |= {k: known[k] for k in needs}
    return SELECTORS[name].rank(
        emb, budget, ridge=options.ridge, seed=_seed(options, replicate), **extra
    )


def rule_of(name: str) -> Rule:
    """The rule of a selector of studies, of which some differ in what the rule sees or the fit."""
    return SELECTORS[name.removesuffix("_prompt").removesuffix("_unweighted")]


def needs_theta(name: str) -> bool:
    """Whether a selector is given the planted model, an oracle."""
    return bool({"probabilities", "theta"} & {*rule_of(name).needs})


def _seed(options: Any, replicate: int) -> int:
    return options.seed * 100_003 + replicate


def fit_all(
    problems: Sequence[Problem],
    choices: list[Pick],
    options: Any,
    label: str,
) -> list[dict[str, float]]:
    """Metrics of the maximum-likelihood fit of every choice, all from one compiled program."""
    sizes = np.array([problems[c.replicate].emb.lengths[c.rows].sum() for c in choices])
    products = int(sizes.sum()) * options.dim * options.n_labels
    steps = ladder(sizes, min(GROUPS, 1 + products // GROUP_SIZE))
    group_of = np.searchsorted(steps, sizes)
    groups, members, batches = [], [], []
    for g, length in enumerate(steps):
        (of_group,) = np.nonzero(group_of == g)
        members.append(of_group)
        room = int(length), len(problems[0].emb.tokens), options.dim, options.n_labels
        batches.append(_side_by_side(len(of_group), *room))
        whole = -(-len(of_group) // batches[-1]) * batches[-1]
        of_group = np.resize(of_group, whole)
        index = np.zeros((len(of_group), length), np.int32)
        weights = np.zeros((len(of_group), length), np.float32)
        for row, c in enumerate(of_group):
            choice = choices[c]
            emb = problems[choice.replicate].emb
            tokens = [np.arange(*emb.offsets[i : i + 2]) for i in choice.rows]
            index[row, : sizes[c]] = np.concatenate(tokens)
            weights[row, : sizes[c]] = np.repeat(choice.weights, emb.lengths[choice.rows])
        replicate = np.array([choices[c].replicate for c in of_group], np.int32)
        groups.append((replicate, index, weights))
    data = {
        "x": np.stack([p.emb.tokens for p in problems]),
        "labels": np.stack([p.labels for p in problems]).astype(np.int32),
    }
    if problems[0].theta is not None:
        data["theta"] = np.stack([p.theta for p in problems])  # pyright: ignore
        data["owner"] = np.stack(
            [np.repeat(np.arange(len(p.emb)), p.emb.lengths) for p in problems]
        ).astype(np.int32)
    if problems[0].held_out is not None:
        data["test_x"] = np.stack([p.held_out[0] for p in problems])  # pyright: ignore
        data["test_labels"] = np.stack([p.held_out[1] for p in problems])  # pyright: ignore
    total = sum(len(replicate) for replicate, _, _ in groups)
    with tqdm(total=total, desc=f"{label}: fitting", unit="fit") as bar, one_blas_thread():
        _Tick.show = bar.update
        results = jax.device_get(
            _fit_groups(
                data,
                tuple(groups),
                options.fit_ridge,
                tuple(batches),
                options.n_labels,
                len(problems[0].emb),
            )
        )
        jax.effects_barrier()
    metrics: list[dict[str, float]] = [{} for _ in choices]
    for of_group, result in zip(members, results, strict=True):
        for row, c in enumerate(of_group):
            metrics[c] = {k: float(v[row]) for k, v in result.items()}
    lost = [m["gradient"] for m in metrics if not m["gradient"] < 1e-3]
    if lost:
        print(f"{len(lost)} fits did not converge, worst gradient {max(lost):.2g}", file=sys.stderr)
    return metrics


def _side_by_side(n_fits: int, length: int, n_pool: int, dim: int, n_labels: int) -> int:
    """Of so many fits, each on `length` of a pool's tokens: those computed at a time, in batches
    alike in size.

    A fit holds the D x D square of each of its tokens, and a few numbers for every label of each
    token that it learns or predicts.
    """
    numbers = length * (dim**2 + 8 * n_labels) + n_pool * (dim + 8 * n_labels)
    most = within_memory(here().fits, 4.0 * numbers)
    return -(-n_fits // -(-n_fits // most))


class _Tick:
    """Where a compiled program reports a finished fit."""

    show: Callable[[int], object] = staticmethod(lambda k: None)

    @classmethod
    def tick(cls, _: Array) -> None:
        cls.show(1)


@functools.partial(jax.jit, static_argnames=("batches", "n_labels", "n_examples"))
def _fit_groups(
    data: dict[str, Array],
    groups: tuple[tuple[Array, Array, Array], ...],
    fit_ridge: float,
    batches: tuple[int, ...],
    n_labels: int,
    n_examples: int,
) -> list[dict[str, Array]]:
    def measure(cell):
        replicate, index, weights = cell
        own = {k: v[replicate] for k, v in data.items()}
        estimate = fit(own["x"][index], own["labels"][index], weights, n_labels, fit_ridge)
        jax.debug.callback(_Tick.tick, estimate.steps)
        return _errors(estimate.theta, own, n_examples) | {"gradient": estimate.gradient}

    def branch(g: int):
        def run(results):
            own = jax.lax.map(measure, groups[g], batch_size=batches[g])
            return [*results[:g], own, *results[g + 1 :]]

        return run

    # one group after the other, for the reason in `fisher_jax.util.platforms.Platform`
    branches = [branch(g) for g in range(len(groups))]
    of_cell = jax.eval_shape(measure, jax.tree.map(lambda x: x[0], groups[0]))

    def zeros(count: int):
        return jax.tree.map(lambda x: jnp.zeros((count, *x.shape), x.dtype), of_cell)

    start = [zeros(len(replicate)) for replicate, _, _ in groups]
    return jax.lax.fori_loop(
        0, len(groups), lambda g, results: jax.lax.switch(g, branches, results), start
    )


def _errors(theta: Array, own: dict[str, Array], n_examples: int) -> dict[str, Array]:
    """Logit error and total variation over the pool, per token and summed per sentence."""
    metrics = {}
    if "theta" in own:
        logit_T, variation_T = prediction_errors(theta, own["theta"], own["x"])
        logit_N, variation_N = (
            jax.ops.segment_sum(x, own["owner"], n_examples) for x in (logit_T, variation_T)
        )
        metrics = {
            "max_logit": jnp.max(logit_T),
            "mean_logit": jnp.mean(logit_T),
            "max_sentence_logit": jnp.max(logit_N),
            "mean_sentence_logit": jnp.mean(logit_N),
            "max_variation": jnp.max(variation_T),
            "mean_variation": jnp.mean(variation_T),
            "max_sentence_variation": jnp.max(variation_N),
            "mean_sentence_variation": jnp.mean(variation_N),
        }
    if "test_x" in own:
        total = log_likelihood(theta, own["test_x"], own["test_labels"])
        metrics["held_out_nll"] = -total / own["test_x"].shape[0]
    return metrics
