"""Many trainings of one model at once: their parameters stacked, the frozen weights shared.

A job is its rows, its highest rate and its seed; all else is the same for all. On an accelerator
some are one program's lanes; a CPU, which gains nothing by that, trains one after the other.
"""

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from fisher_jax.models import DTYPES, LanguageModel, TokenizedRows, activation_bytes
from fisher_jax.training.adapters import merged, prepare
from fisher_jax.training.finetune import (
    DivergedError,
    TrainOptions,
    TrainState,
    adamw,
    batches_of,
    check,
    check_rows,
    finetune,
    fingerprint,
    learning_rates,
    train_step,
)
from fisher_jax.training.packing import Batches, TokenBatch
from fisher_jax.util.platforms import here, within_memory


class Job(NamedTuple):
    """What tells a training from the others; its rate and seed stand for `TrainOptions`'.

    `weights` are of the rows in the loss, see `finetune`.
    """

    rows: TokenizedRows
    learning_rate: float | int
    seed: int
    weights: Float[np.ndarray, "N"] | None = None


OnJobStep = Callable[[Job, int, float], None]


class Trained(NamedTuple):
    """A finished job.

    Attributes:
        job: its place among the jobs.
        model: with adapters merged; None where the loss was no number at some step.
        losses: (S,) mean training NLL of each step that has one, nats a token.
    """

    job: int
    model: LanguageModel | None
    losses: Float[np.ndarray, "S"]


def finetune_many(
    model: LanguageModel,
    jobs: Sequence[Job],
    options: TrainOptions,
    on_step: OnJobStep | None = None,
) -> Iterator[Trained]:
    """What `finetune` makes of each job, up to rounding; those that are finished first come first.

    Jobs are trained together by alike numbers of steps, the most steps first, `trained_together`
    of `fisher_jax.util.platforms` or as many as memory holds. Models are made as they are asked
    for, so that one is held at a time.

    Args:
        model: is left as it is.
        jobs: see there.
        options: all but `learning_rate` and `seed`; nothing is validated between.
        on_step: called with a job, its steps done and the training loss; of jobs that are trained
            together when all of them are done.

    Raises:
        ValueError: as `finetune`.
    """
    for job in jobs:
        check(_of(job, options))
        check_rows(job.rows, job.weights)
    size = _together(model, options, len(jobs)) if len(jobs) > 1 else 1
    if size <= 1:
        for k, job in enumerate(jobs):
            yield _one(model, k, job, options, on_step)
        return
    batches = [batches_of(job.rows, _of(job, options), job.weights) for job in jobs]
    order = sorted(range(len(jobs)), key=lambda k: -len(batches[k]))
    for begin in range(0, len(jobs), size):
        places = order[begin : begin + size]
        lanes = [*places, *[places[-1]] * (size - len(places))]  # the last are no jobs
        own = [jobs[k] for k in lanes], [batches[k] for k in lanes]
        yield from _side_by_side(model, places, *own, options, on_step)


def _one(
    model: LanguageModel, place: int, job: Job, options: TrainOptions, on_step: OnJobStep | None
) -> Trained:
    losses: list[float] = []

    def note(step: int, of: int, loss: float) -> None:
        losses.append(loss)
        if on_step is not None:
            on_step(job, step, loss)

    try:
        trained = finetune(model, job.rows, _of(job, options), weights=job.weights, on_step=note)
    except DivergedError:
        return Trained(place, None, np.asarray(losses, np.float32))
    return Trained(place, trained.model, trained.losses)


def _side_by_side(
    model: LanguageModel,
    places: list[int],
    jobs: list[Job],
    batches: list[Batches],
    options: TrainOptions,
    on_step: OnJobStep | None,
) -> Iterator[Trained]:
    """Jobs in lanes of one program; those beyond `places` are there for the shape alone."""
    parts = [
        nnx.split(module, wanted, ...)
        for module, wanted in (
            prepare(model.module, options.method, options.rank, job.seed) for job in jobs
        )
    ]
    graph, _, frozen = parts[0]
    starts = [params for _, params, _ in parts]
    params_C = jax.tree.map(lambda *lanes: jnp.stack(lanes), *starts)
    optimizer = adamw(options.clip, options.weight_decay)
    states_C = TrainState(params_C, jax.vmap(optimizer.init)(params_C))
    n_steps = max(len(own) for own in batches)
    rates_CxS = np.zeros((len(jobs), n_steps), np.float32)
    for rates_S, job, own in zip(rates_CxS, jobs, batches, strict=True):
        rates_S[: len(own)] = learning_rates(job.learning_rate, options.warmup, len(own))
    begun: list[Array] = []
    for k in range(n_steps):
        batch_C = [own[min(k, len(own) - 1)] for own in batches]
        states_C, loss_C = _steps(
            graph,
            optimizer,
            options.remat,
            DTYPES[options.dtype],
            frozen,
            states_C,
            jax.tree.map(lambda *lanes: np.stack(lanes), *batch_C),
            rates_CxS[:, k],
        )
        begun.append(loss_C)
        if len(begun) >= here().in_flight:
            begun[-here().in_flight].block_until_ready()
    losses_CxS = np.stack(jax.device_get(begun), axis=1)
    for lane, place in enumerate(places):
        losses_S = losses_CxS[lane, : len(batches[lane])]
        bad = np.flatnonzero(~np.isfinite(losses_S))
        losses_S = losses_S[: bad[0]] if len(bad) else losses_S
        if on_step is not None:
            for k, loss in enumerate(losses_S.tolist(), start=1):
                on_step(jobs[lane], k, loss)
        if len(bad):
            yield Trained(place, None, losses_S)
            continue
        own = jax.tree.map(operator.itemgetter(lane), states_C.params)
        made_of = fingerprint(model, batches[lane], _of(jobs[lane], options), validated=False)
        module = merged(nnx.merge(graph, own, frozen))
        yield Trained(place, model._replace(module=module, weights_sha256=made_of), losses_S)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnames="states_C")
def _steps(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    remat: bool,
    dtype: DTypeLike,
    frozen: nnx.State,
    states_C: TrainState,
    batches_C: TokenBatch,
    rates_C: Float[Array, "C"],
) -> tuple[TrainState, Float[Array, "C"]]:
    """A step of every lane; one that is done has a rate of zero, and its parameters stay."""
    one = functools.partial(train_step, graph, optimizer, remat, dtype, frozen)
    return jax.vmap(one)(states_C, batches_C, rates_C)


def _of(job: Job, options: TrainOptions) -> TrainOptions:
    return options._replace(learning_rate=job.learning_rate, seed=job.seed)


def _together(model: LanguageModel, options: TrainOptions, n_jobs: int) -> int:
    """Jobs in one program, programs alike: what a lane holds is within the device's memory.

    A lane has its parameters, two moments and gradients, and the activations of a micro-batch.
    """
    if here().trained_together == 1:
        return 1
    module, wanted = prepare(model.module, options.method, options.rank, 0)
    params = jax.tree.leaves(nnx.split(module, wanted, ...)[1])
    config = model.module.config
    of_token = activation_bytes(config, options.sequence_length)
    layers = 1 if options.remat else config.n_layers
    activations = options.sequences * options.sequence_length * layers * of_token
    most = within_memory(
        here().trained_together, 4.0 * 4 * sum(x.size for x in params) + activations
    )
    return -(-n_jobs // -(-n_jobs // most))
