"""Fine-tuning of a language model on chosen rows: full, LoRA or the last layer."""

import functools
import hashlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from fisher_jax.models import (
    DTYPES,
    LanguageModel,
    TokenizedRows,
    capped,
    packed_rows,
    project,
)
from fisher_jax.training.adapters import METHODS, Method, merged, prepare
from fisher_jax.training.checkpoints import Checkpoints
from fisher_jax.training.packing import Batches, TokenBatch
from fisher_jax.util.errors import UserError
from fisher_jax.util.platforms import here

REPORT_SECONDS = 0.3  # between two readings of the losses

_COUNTS = ("epochs", "micro_batches", "sequences", "sequence_length", "rank")


class DivergedError(UserError):
    """The loss is no number any more."""


class TrainOptions(NamedTuple):
    """How to train.

    Attributes:
        method: "full", "lora" or "last_layer".
        learning_rate: the highest; linear warm-up, then a cosine to zero.
        epochs: passes over the rows, each in a new random order.
        micro_batches, sequences, sequence_length: shape (A, B, T) of an optimiser step; gradients
            of the A micro-batches are added up before it.
        warmup: share of the steps.
        weight_decay: AdamW's, of matrices only.
        clip: largest global norm of a gradient.
        rank: of the LoRA adapters.
        remat: recompute layers in the backward pass, for less memory.
        dtype: of the forward and backward pass; parameters and optimiser stay as they are.
        seed: of the order of rows and of LoRA's start.
        validate_every: steps between validations; 0 for none but the last.
        patience: validations without improvement after which training stops.
    """

    method: Method = "lora"
    learning_rate: float | int = 1e-3
    epochs: int = 1
    micro_batches: int = 1
    sequences: int = 4
    sequence_length: int = 256
    warmup: float | int = 0.1
    weight_decay: float | int = 0.01
    clip: float | int = 1.0
    rank: int = 16
    remat: bool = False
    dtype: str = "float32"
    seed: int = 0
    validate_every: int = 0
    patience: int = 3


class TrainState(NamedTuple):
    """What is carried from step to step."""

    params: Any
    optimizer: optax.OptState


class Finetuned(NamedTuple):
    """A trained model and its history.

    Attributes:
        model: with adapters merged; of the best validation if there was one. Its
            `weights_sha256` is of what it was made from: start, rows in order, options.
        losses: (S,) mean training NLL of each step, nats a token.
        validation: (step, validation loss) pairs.
    """

    model: LanguageModel
    losses: Float[np.ndarray, "S"]
    validation: list[tuple[int, float]]


def finetune(
    model: LanguageModel,
    rows: TokenizedRows,
    options: TrainOptions,
    *,
    weights: Float[np.ndarray, "N"] | None = None,
    validate: Callable[[LanguageModel], float] | None = None,
    mesh: Mesh | None = None,
    fsdp: bool = False,
    checkpoints: Path | None = None,
    checkpoint_every: int = 50,
    on_step: Callable[[int, int, float], None] | None = None,
) -> Finetuned:
    """Minimise the mean NLL of the rows' counted tokens by AdamW.

    Rows are packed into sequences of one shape (`packing`), so there is one compiled program.
    The loss of a step is `sum w nll / sum w` over all its tokens.

    Args:
        model: is left as it is.
        rows: as `embed.tokenize` makes them; of a prompt + completion only the completion counts.
        options: see there.
        weights: (N,) of the rows in the loss, for example inverse inclusion probabilities.
        validate: gives a loss of the model so far; the best model is kept, and training stops
            after `options.patience` validations without improvement.
        mesh: devices with one axis "data" over which sequences are divided.
        fsdp: divide parameters and optimiser over the mesh as well.
        checkpoints: a folder; a killed run with the same arguments goes on to the same bytes.
        checkpoint_every: steps between checkpoints.
        on_step: called for every step, in order, with steps done, steps in all, and the training
            loss. Losses are read from the device in blocks, a few times a second and before every
            validation and checkpoint, so several calls may come at once.

    Raises:
        ValueError: options or weights out of range, no rows, one that is too long or has nothing
            to predict, or a folder that holds checkpoints of another run.

    Warns:
        UserWarning: a damaged checkpoint, in whose place the one before it is taken.
    """
    check(options, mesh, checkpoint_every)
    check_rows(rows, weights)
    batches = batches_of(rows, options, weights)
    made_of = fingerprint(model, batches, options, validate is not None)
    module, wanted = prepare(model.module, options.method, options.rank, options.seed)
    graph, params, frozen = nnx.split(module, wanted, ...)
    params = jax.tree.map(jnp.copy, params)  # every step takes the memory of those before it
    optimizer = adamw(options.clip, options.weight_decay)
    state = TrainState(params, optimizer.init(params))  # pyright: ignore[reportArgumentType]
    if mesh is not None:
        state, frozen = (_divided(tree, mesh, fsdp) for tree in (state, frozen))
    schedule = learning_rates(options.learning_rate, options.warmup, len(batches))
    step = functools.partial(_step, graph, optimizer, options.remat, DTYPES[options.dtype], frozen)

    def finished(params: nnx.State) -> LanguageModel:
        return model._replace(module=merged(nnx.merge(graph, params, frozen)))

    losses: list[Any] = []
    validation: list[tuple[int, float]] = []
    # a copy, since every step takes its parameters' memory
    best = jax.tree.map(jnp.copy, state.params) if validate is not None else None
    with Checkpoints.opened(checkpoints, made_of) as kept:
        if kept is not None:
            restored = kept.restore({"state": state, "best": best})
            if restored is not None:
                losses, validation = restored.losses, restored.validation
                state, best = restored.tree["state"], restored.tree["best"]
            if len(losses) < len(batches) and not _exhausted(validation, options.patience):
                kept.check_room({"state": state, "best": best})
        begun: list[Array] = []  # losses of steps that are not read yet
        in_flight, read_at = here().in_flight, time.monotonic()

        def read(count: int) -> None:
            for loss in jax.device_get(begun[:count]):
                losses.append(float(loss))
                if not math.isfinite(loss):
                    raise DivergedError(
                        f"the loss of step {len(losses)} is {loss}: lower learning_rate "
                        f"{options.learning_rate:g}, or train in float32"
                    )
                if on_step is not None:
                    on_step(len(losses), len(batches), losses[-1])
            del begun[:count]

        for k in range(len(losses), len(batches)):
            if _exhausted(validation, options.patience):
                break
            batch = batches[k] if mesh is None else _spread(batches[k], mesh)
            state, loss = step(state, batch, schedule[k])
            begun.append(loss)
            if len(begun) >= in_flight:
                begun[-in_flight].block_until_ready()
            last, every = k + 1 == len(batches), options.validate_every
            validates = last or (every > 0 and (k + 1) % every == 0)
            saves = last or (k + 1) % checkpoint_every == 0
            if validates or saves:
                read(len(begun))
            elif time.monotonic() - read_at >= REPORT_SECONDS:
                read(max(0, len(begun) - in_flight + 1))  # those that are done
                read_at = time.monotonic()
            if validate is not None and validates:
                validation.append((k + 1, float(validate(finished(state.params)))))
                if validation[-1][1] <= min(v for _, v in validation):
                    best = jax.tree.map(jnp.copy, state.params)
            if kept is not None and saves:
                kept.save(k + 1, {"state": state, "best": best}, losses, validation)
    final = finished(best if best is not None else state.params)
    final = final._replace(weights_sha256=made_of)
    return Finetuned(final, np.asarray(losses, np.float32), validation)


def batches_of(
    rows: TokenizedRows, options: TrainOptions, weights: np.ndarray | None = None
) -> Batches:
    """All steps of a run: every epoch in its own random order."""
    shape = (options.micro_batches, options.sequences, options.sequence_length)
    rng = np.random.default_rng(options.seed)
    orders = (rng.permutation(len(rows.ids)) for _ in range(options.epochs))
    return Batches(rows, orders, shape, weights)


def learning_rates(highest: float | int, warmup: float | int, steps: int) -> Float[np.ndarray, "S"]:
    """Linear warm-up for a share of the steps, then a cosine to zero."""
    schedule = optax.warmup_cosine_decay_schedule(0, highest, int(warmup * steps) + 1, steps + 1)
    return np.asarray(jax.vmap(schedule)(jnp.arange(1, steps + 1)), np.float32)


@functools.cache
def adamw(clip: float, weight_decay: float) -> optax.GradientTransformation:
    """AdamW without its rate, which every step brings: one compiled program for all schedules."""
    return optax.chain(
        optax.clip_by_global_norm(clip),
        optax.scale_by_adam(),
        optax.add_decayed_weights(weight_decay, mask=_matrices),
    )


def _matrices(params: Any) -> Any:
    """Whether a parameter is a matrix; those of stacked layers have an axis more."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x.ndim - ("layers" in jax.tree_util.keystr(path)) > 1, params
    )


def train_step(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    remat: bool,
    dtype: DTypeLike,
    frozen: nnx.State,
    state: TrainState,
    batch: TokenBatch,
    rate: float | Array,
) -> tuple[TrainState, Float[Array, ""]]:
    """One step of AdamW on a batch's mean NLL, and that loss."""

    def cast(tree):
        return jax.tree.map(lambda x: x.astype(dtype) if dtype != jnp.float32 else x, tree)

    total = jnp.maximum(jnp.sum(batch.weights), 1e-9)  # of a step of weights of zero, too

    def loss_of(params, micro: TokenBatch):
        module = nnx.merge(graph, cast(params), cast(frozen))
        attend = packed_rows(micro.segments)  # pyright: ignore
        hidden, _ = module.states(micro.ids, micro.positions, attend, remat=remat)
        nll = token_nll(hidden, module.head, micro.labels, module.logit_cap)  # pyright: ignore
        return jnp.sum(micro.weights * nll) / total

    def add(sums, micro):
        return jax.tree.map(jnp.add, sums, jax.value_and_grad(loss_of)(state.params, micro)), None

    if batch.ids.shape[0] == 1:
        loss, gradients = jax.value_and_grad(loss_of)(
            state.params, jax.tree.map(lambda x: x[0], batch)
        )
    else:
        zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params))
        (loss, gradients), _ = jax.lax.scan(add, zeros, batch)
    updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
    params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
    return TrainState(params, optimizer_state), loss


_step = jax.jit(train_step, static_argnums=(0, 1, 2, 3), donate_argnames="state")


def token_nll(
    hidden_BxTxD: Float[Array, "*B D"],
    head_LxD: Float[Array, "L D"],
    labels: Array,
    cap: float | None = None,
) -> Float[Array, "*B"]:
    """`logsumexp(theta x) - theta_y x` of each position, in float32; `cap` as the model's."""
    logits = capped(project(hidden_BxTxD, head_LxD.T).astype(jnp.float32), cap)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def check(options: TrainOptions, mesh: Mesh | None = None, checkpoint_every: int = 1) -> None:
    """Refuse options out of range by a ValueError."""
    if not options.learning_rate > 0:
        raise UserError(f"learning_rate must be above 0, got {options.learning_rate}")
    counts = {n: getattr(options, n) for n in _COUNTS} | {"checkpoint_every": checkpoint_every}
    for name, value in counts.items():
        if value != int(value) or value < 1:
            raise UserError(f"{name} must be a whole number of at least 1, got {value}")
    if options.method not in METHODS:
        raise UserError(f"method must be one of {', '.join(METHODS)}, got {options.method!r}")
    if options.dtype not in DTYPES:
        raise UserError(f"dtype must be one of {', '.join(DTYPES)}, got {options.dtype!r}")
    if not 0 <= options.warmup < 1:
        raise UserError(f"warmup must be at least 0 and below 1, got {options.warmup}")
    if not options.clip > 0 or options.weight_decay < 0:
        raise UserError("clip must be above 0, weight_decay at least 0")
    if mesh is not None and (mesh.axis_names != ("data",) or options.sequences % mesh.size):
        raise UserError(
            f"mesh must have one axis 'data' whose {mesh.size} devices divide "
            f"sequences = {options.sequences}, got axes {mesh.axis_names}"
        )


def check_rows(rows: TokenizedRows, weights: np.ndarray | None) -> None:
    """Refuse rows or weights that would teach nothing by a ValueError."""
    if not rows.ids:
        raise UserError("there are no rows to train on")
    empty = np.flatnonzero(rows.counted == 0)
    if len(empty):
        raise UserError(
            f"row {empty[0]} has nothing to predict ({len(empty)} such rows): leave them out, or "
            "raise max_length where the prompt fills it"
        )
    if weights is None:
        return
    if np.shape(weights) != (len(rows.ids),):
        raise UserError(f"weights must be one a row, {len(rows.ids)}, got {np.shape(weights)}")
    bad = np.flatnonzero(~(np.isfinite(weights) & (np.asarray(weights) >= 0)))
    if len(bad):
        raise UserError(f"weights must be at least 0, row {bad[0]} has {weights[bad[0]]}")


def _exhausted(validation: list[tuple[int, float]], patience: int) -> bool:
    if not validation:
        return False
    values = [v for _, v in validation]
    return len(values) - 1 - int(np.argmin(values)) >= patience


def _divided(tree: Any, mesh: Mesh, fsdp: bool) -> Any:
    """Each array on all devices, or divided along its longest axis that they divide."""

    def place(x: Array) -> Array:
        axes: list[str | None] = [None] * x.ndim
        divisible = [k for k in range(x.ndim) if x.shape[k] % mesh.size == 0]
        if fsdp and divisible:
            axes[max(divisible, key=lambda k: x.shape[k])] = "data"
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))

    return jax.tree.map(place, tree)


def _spread(batch: TokenBatch, mesh: Mesh) -> TokenBatch:
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec(None, "data")))


def fingerprint(
    model: LanguageModel, batches: Batches, options: TrainOptions, validated: bool
) -> str:
    """SHA-256 of what a training is made from: weights, rows in their order, options."""
    digest = hashlib.sha256(json.dumps([model.weights_sha256, *options, validated]).encode())
    for batch in batches:
        for part in batch:
            digest.update(part.tobytes())
    return digest.hexdigest()
