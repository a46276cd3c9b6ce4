"""Train on chosen rows, then measure: losses on held-out text, continuations of prompts."""

import contextlib
import math

import numpy as np

from experiments.language.options import Options
from experiments.language.preparation import Prepared, seed_of
from experiments.language.variants import TASK, Chosen
from experiments.run import live
from experiments.run.results import Row
from fisher_jax.data import Example
from fisher_jax.models import LanguageModel, TokenizedRows
from fisher_jax.models.generate import generate
from fisher_jax.scoring import labels_of, token_scores
from fisher_jax.training.finetune import DivergedError, TrainOptions, finetune
from fisher_jax.training.last_layer import HeadOptions, nll, train
from fisher_jax.training.packing import packed_states


def train_and_test(
    options: Options,
    model: LanguageModel,
    prepared: Prepared,
    chosen: Chosen,
    replicate: int,
    tried: list[float],
    texts: bool,
) -> Row:
    """Train on the rows and measure, at the learning rate with the best validation loss."""
    measured: Row = {"validation_nll": math.inf}
    tuned = None
    for rate in tried:
        with contextlib.suppress(DivergedError):
            run = _train(options, model, prepared, chosen, replicate, rate)
            if run[0]["validation_nll"] < measured["validation_nll"]:  # not so for NaN
                measured, tuned = run
    if measured["validation_nll"] == math.inf:
        raise DivergedError(f"training diverged at every learning rate of {tried}")
    if texts and tuned is not None:
        prompts = prompts_of(prepared.pool.test, options)
        longest = max(len(ids) for ids in tuned.tokenizer(prompts)["input_ids"])
        measured["texts"] = generate(
            tuned,
            prompts,
            max_new_tokens=min(options.new_tokens, tuned.context - longest),
            temperature=options.temperature,
            seed=seed_of(options, replicate),
        )
    return measured


def _train(
    options: Options,
    model: LanguageModel,
    prepared: Prepared,
    chosen: Chosen,
    replicate: int,
    rate: float,
) -> tuple[Row, LanguageModel | None]:
    """Losses on validation and test after one training; the model, of which a head is no part."""
    seed, head = seed_of(options, replicate), prepared.head
    rows = prepared.validation if chosen.of_task else prepared.rows
    tuned, measured = None, {"learning_rate": rate}
    if head is not None:
        offsets = rows.offsets
        theta = train(
            head.start,
            head.validation if chosen.of_task else head.pool,
            [np.arange(*offsets[i : i + 2]) for i in chosen.rows],
            HeadOptions(rate, options.epochs, options.batch_tokens, seed=seed),
            chosen.weights,
        )
        losses = [nll(theta, data) for data in (head.validation, head.test)]
    else:
        length = max(128, -(-(options.max_length - 1) // 64) * 64)
        trained = finetune(
            model,
            rows.take(chosen.rows),
            TrainOptions(
                options.method,  # pyright: ignore[reportArgumentType]
                learning_rate=rate,
                epochs=options.epochs,
                sequences=max(1, options.batch_tokens // length),
                sequence_length=length,
                rank=options.rank,
                seed=seed,
            ),
            weights=chosen.weights,
            on_step=lambda step, of, loss: live.log(
                training_loss=loss, training_step=step, training_rows=len(chosen.rows), rate=rate
            ),
        )
        tuned = trained.model
        measured["steps"] = len(trained.losses)
        losses = [token_losses(tuned, part) for part in (prepared.validation, prepared.test)]
    return measured | _measures(prepared, *losses), tuned


def prompts_of(test: list[Example], options: Options) -> list[str]:
    """The first words of the first test sentences of twice as many; a question's prompt whole."""
    prompts = []
    for row in test:
        if row.prompt is not None:
            prompts.append(str(row.prompt))
        elif len(words := row.text().split()) >= 2 * options.prompt_words:
            prompts.append(" ".join(words[: options.prompt_words]))
    return prompts[: options.n_prompts]


def _measures(prepared: Prepared, validation_T: np.ndarray, test_T: np.ndarray) -> Row:
    parts = prepared.validation, prepared.test
    validation, test = (
        np.add.reduceat(x, part.offsets[:-1])
        for x, part in zip((validation_T, test_T), parts, strict=True)
    )
    domains = prepared.pool.test_domain
    n_own = len(validation) - len(validation) // 2 if domains.any() else len(validation)
    return (
        _means("validation", validation, parts[0].counted, np.arange(len(validation)) >= n_own)
        | _means("held_out", test, parts[1].counted, domains)
        | {
            "bits_per_byte": float(test.sum() / np.log(2) / prepared.test_bytes),
            "test_nll": [round(float(x), 3) for x in test],
            "test_tokens": parts[1].counted.tolist(),
        }
    )


def _means(name: str, sums: np.ndarray, counts: np.ndarray, domains: np.ndarray) -> Row:
    """Nats a token: the mean over the domains' own means, and those."""
    means = [
        float(sums[domains == d].sum() / counts[domains == d].sum()) for d in np.unique(domains)
    ]
    each = {f"{name}_nll_{d}": m for d, m in enumerate(means)} if len(means) > 1 else {}
    return {f"{name}_nll": float(np.mean(means))} | each


def token_losses(model: LanguageModel, rows: TokenizedRows) -> np.ndarray:
    """NLL of every counted position, nats."""
    return token_scores(model.module.head, packed_states(model, rows), labels_of(rows)).nll_T


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
