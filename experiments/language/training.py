"""Train on chosen rows, then measure: losses on held-out text, continuations of prompts."""

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from experiments.language.cells import Cell
from experiments.language.options import Options
from experiments.language.preparation import Prepared, seed_of
from experiments.language.variants import TASK, Chosen
from experiments.language.writing import continued, prompts_of
from experiments.run import live
from experiments.run.results import Row, rounded
from fisher_jax.models import LanguageModel, TokenizedRows
from fisher_jax.scoring import labels_of, token_scores
from fisher_jax.training.finetune import DivergedError, TrainOptions
from fisher_jax.training.last_layer import HeadOptions, nll, train
from fisher_jax.training.many import Job, finetune_many
from fisher_jax.training.packing import packed_states
from fisher_jax.util.platforms import here

UNSTEADY = 0.1  # nats a token that a training's held-out loss is above its cell's best
SEEDS_APART = 1 << 24  # of a cell's trainings


class CellFit(NamedTuple):
    """One training of a cell, validated.

    Attributes:
        choice: which of the choices it was trained on.
        rate: highest learning rate.
        losses: of its steps.
        validation_T: NLL of each counted position, nats; None where it diverged.
        test: gives the same of the test.
        model: that was trained, of which a head is none.
    """

    choice: int
    rate: float
    losses: list[float]
    validation_T: np.ndarray | None = None
    test: Callable[[], np.ndarray] = lambda: np.empty(0)
    model: LanguageModel | None = None


class Tested(NamedTuple):
    """What is kept of a training; its losses on both parts are empty where it diverged."""

    losses: list[float]
    validation_T: np.ndarray
    test_T: np.ndarray


def measured(
    options: Options,
    model: LanguageModel,
    prepared: Prepared,
    replicate: int,
    cells: Sequence[Cell],
    rates: Sequence[float],
    end: float = math.inf,
) -> Iterator[tuple[Cell, Row]]:
    """Choose, train and test for each cell, until `end` by the monotonic clock.

    Cells of the same rows are trained once. With `tune=uniform` the first cell's best rate is all
    others'.

    Raises:
        DivergedError: a cell at every rate; those before it are given.
    """
    known: dict[bytes, Row | DivergedError] = {}
    while cells and time.monotonic() < end:
        tunes = options.tune == "uniform" and len(rates) > 1
        together = 1 if tunes else max(1, here().trained_together // options.trainings)
        now, cells = cells[:together], cells[together:]
        choices, writes, keys = [], [], []
        for cell in now:
            chosen = prepared.candidates.choose(
                cell.selector, n=cell.n, equal=cell.equal, seed=seed_of(options, replicate)
            )
            choices.append(chosen)
            writes.append(options.n_prompts > 0 and cell.n in options.generate_budgets)
            keys.append(chosen.key + bytes(writes[-1:]))
        new = [k for k, key in enumerate(keys) if key not in known and keys.index(key) == k]
        found = train_and_test(
            options,
            model,
            prepared,
            [choices[k] for k in new],
            replicate,
            rates,
            [writes[k] for k in new],
        )
        known |= zip([keys[k] for k in new], found, strict=True)
        for cell, chosen, key in zip(now, choices, keys, strict=True):
            row = known[key]
            if isinstance(row, DivergedError):
                raise DivergedError(
                    f"{' '.join(map(str, cell))}: {row}: leave {cell.selector} out of selectors, "
                    "or start again with overwrite=true and lower learning_rates"
                )
            yield cell, described(prepared, chosen) | row
            if tunes:
                rates = [row["learning_rate"]]


def train_and_test(
    options: Options,
    model: LanguageModel,
    prepared: Prepared,
    choices: Sequence[Chosen],
    replicate: int,
    rates: Sequence[float],
    writes: Sequence[bool],
) -> list[Row | DivergedError]:
    """Means over the trainings of every choice, each with an order and adapters of its own.

    The first is done at every rate, the others at the one with its best validation loss.

    Args:
        writes: whether the first training's model continues prompts, for each choice.

    Returns:
        What was measured, or the error of a choice that diverged at every rate.
    """
    seed = seed_of(options, replicate)
    fits = functools.partial(_fits, options, model, prepared, choices)
    losses: list[dict[float, float]] = [{} for _ in choices]
    best: dict[int, tuple[float, list[Tested], LanguageModel | None]] = {}
    for fit in fits([(k, rate) for k in range(len(choices)) for rate in rates], seed):
        k, loss = fit.choice, _validation_nll(prepared, fit)
        if loss < min(losses[k].values(), default=math.inf):
            best[k] = fit.rate, [_tested(fit)], fit.model if writes[k] else None
        losses[k][fit.rate] = loss
    for training in range(1, options.trainings):
        jobs = [(k, rate) for k, (rate, *_) in best.items()]
        for fit in fits(jobs, (seed + training * SEEDS_APART) % 2**32):
            best[fit.choice][1].append(_tested(fit))
    found: list[Row | DivergedError] = []
    for k in range(len(choices)):
        if k not in best:
            error = f"training diverged at every learning rate of {list(rates)}"
            found.append(DivergedError(error))
            continue
        rate, trainings, tuned = best[k]
        row: Row = {"learning_rate": rate} | _summary(prepared, trainings, losses[k])
        if tuned is not None:
            prompts = prompts_of(prepared.pool.test, options)
            row["texts"] = continued(tuned, prompts, options, seed)
        found.append(row)
    return found


def _fits(
    options: Options,
    model: LanguageModel,
    prepared: Prepared,
    choices: Sequence[Chosen],
    jobs: list[tuple[int, float]],
    seed: int,
) -> Iterator[CellFit]:
    """A training of each (choice, rate), as they are finished."""
    head = prepared.head
    if head is not None:
        for k, rate in jobs:
            chosen = choices[k]
            offsets = (prepared.validation if chosen.of_task else prepared.rows).offsets
            theta, losses = train(
                head.start,
                head.validation if chosen.of_task else head.pool,
                [np.arange(*offsets[i : i + 2]) for i in chosen.rows],
                HeadOptions(rate, options.epochs, options.batch_tokens, seed=seed),
                chosen.weights,
            )
            test = functools.partial(nll, theta, head.test)
            yield CellFit(k, rate, _kept(losses), nll(theta, head.validation), test)
        return
    length = max(128, -(-(options.max_length - 1) // 64) * 64)
    together = TrainOptions(
        options.method,  # pyright: ignore[reportArgumentType]
        epochs=options.epochs,
        micro_batches=options.micro_batches,
        sequences=max(1, options.batch_tokens // length // options.micro_batches),
        sequence_length=length,
        rank=options.rank,
        remat=options.remat,
        dtype=options.dtype,
    )
    rows = [
        (prepared.validation if chosen.of_task else prepared.rows).take(chosen.rows)
        for chosen in choices
    ]
    trained = finetune_many(
        model,
        [Job(rows[k], rate, seed, choices[k].weights) for k, rate in jobs],
        together,
        lambda job, step, loss: live.log(
            training_loss=loss,
            training_step=step,
            training_rows=len(job.rows.ids),
            rate=job.learning_rate,
        ),
    )
    for place, tuned, losses in trained:
        fit = CellFit(*jobs[place], _kept(losses))
        if tuned is not None:
            fit = fit._replace(
                validation_T=token_losses(tuned, prepared.validation),
                test=functools.partial(token_losses, tuned, prepared.test),
                model=tuned,
            )
        yield fit


def _kept(losses: Sequence[float] | np.ndarray) -> list[float]:
    return [round(float(x), 4) for x in losses]


def _validation_nll(prepared: Prepared, fit: CellFit) -> float:
    """Infinite where it diverged."""
    if fit.validation_T is None:
        return math.inf
    loss = _means(prepared, "validation", fit.validation_T)["validation_nll"]
    return loss if math.isfinite(loss) else math.inf


def _tested(fit: CellFit) -> Tested:
    if fit.validation_T is None:
        return Tested(fit.losses, np.empty(0), np.empty(0))
    return Tested(fit.losses, fit.validation_T, fit.test())


def _summary(prepared: Prepared, trainings: list[Tested], tried: dict[float, float]) -> Row:
    """Means over the trainings that did not diverge, how many did, and each one's own numbers.

    An unsteady one is `UNSTEADY` above the cell's best, which had the same rows.
    """
    done = [of for of in trainings if len(of.test_T)]
    test_T = np.mean([of.test_T for of in done], axis=0)
    test = np.add.reduceat(test_T, prepared.test.offsets[:-1])
    each = [_means(prepared, "held_out", of.test_T) for of in done]
    best = min(of["held_out_nll"] for of in each)
    return (
        {"steps": len(done[0].losses)}
        | _means(prepared, "validation", np.mean([of.validation_T for of in done], axis=0))
        | _means(prepared, "held_out", test_T)
        | {
            "bits_per_byte": float(test.sum() / np.log(2) / prepared.test_bytes),
            "test_nll": [round(float(x), 3) for x in test],
            "test_tokens": prepared.test.counted.tolist(),
            "tried": {f"{rate:g}": round(x, 5) for rate, x in tried.items() if x < math.inf},
            "diverged": len(trainings) - len(done) + sum(x == math.inf for x in tried.values()),
            "unsteady": sum(of["held_out_nll"] > best + UNSTEADY for of in each),
            "losses": [of.losses for of in trainings],
            "of_training": [rounded(of) for of in each],
        }
    )


def _means(prepared: Prepared, name: str, nll_T: np.ndarray) -> Row:
    """Nats a token of validation or test: the mean over the domains' own means, and those."""
    part = prepared.validation if name == "validation" else prepared.test
    sums, counts = np.add.reduceat(nll_T, part.offsets[:-1]), part.counted
    domains = prepared.pool.test_domain
    if name == "validation":  # the corpus' own rows first
        n_own = len(sums) - len(sums) // 2 if domains.any() else len(sums)
        domains = np.arange(len(sums)) >= n_own
    means = [
        float(sums[domains == d].sum() / counts[domains == d].sum()) for d in np.unique(domains)
    ]
    each = {f"{name}_nll_{d}": m for d, m in enumerate(means)} if len(means) > 1 else {}
    return {f"{name}_nll": float(np.mean(means))} | each


def token_losses(model: LanguageModel, rows: TokenizedRows) -> np.ndarray:
    """NLL of every counted position, nats."""
    states_TxD, module = packed_states(model, rows), model.module
    return token_scores(module.head, states_TxD, labels_of(rows), cap=module.logit_cap).nll_T


def described(prepared: Prepared, chosen: Chosen) -> Row:
    """What was chosen: rows, tokens that are trained and fed, shares of the pool's kinds."""
    part = (prepared.validation if chosen.of_task else prepared.rows).take(chosen.rows)
    known = prepared.pool.kind
    kinds = np.full(len(chosen.rows), TASK) if chosen.of_task else known[chosen.rows]
    return {
        "rows": len(part.ids),
        "tokens": int(part.counted.sum()),
        "fed_tokens": sum(len(ids) - 1 for ids in part.ids),
        "chosen": chosen.rows.tolist(),
        "shares": {str(k): round(float(np.mean(kinds == k)), 4) for k in np.unique(known)},
    }
