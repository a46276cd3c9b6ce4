"""Fine-tuning of the last layer alone on hidden states that are computed once.

`-log p(y | x) = log(sum_{l in V} exp(theta_l . x) + exp(rest)) - theta_y . x`: the rows V of the
head that belong to tokens of the pool are trained; those of tokens that occur nowhere in the pool
stay as they are, so what they add to the normaliser, `rest`, is a number a position, computed once.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from fisher_jax.design import HIGHEST
from fisher_jax.training.finetune import TrainState, adamw, learning_rates
from fisher_jax.util.dispatch import ahead
from fisher_jax.util.platforms import scored_tokens

VOCABULARY_STEP = 1024  # trained rows of the head are a multiple of this: few compiled programs


class Positions(NamedTuple):
    """Positions to train or test on, with all that the frozen part of the head says of them.

    Attributes:
        x: hidden states, as the head multiplies them.
        label: index into the trained rows; -1 where the label's row is frozen.
        rest: log of the frozen rows' `sum exp(theta_l . x)`.
        frozen_logit: of the label where its row is frozen, else 0.
    """

    x: Float[np.ndarray, "T D"]
    label: Int[np.ndarray, "T"]
    rest: Float[np.ndarray, "T"]
    frozen_logit: Float[np.ndarray, "T"]

    def take(self, index: np.ndarray) -> "Positions":
        """Some of them."""
        return Positions(*(part[index] for part in self))


class HeadOptions(NamedTuple):
    """How to train a head; see `finetune.TrainOptions`."""

    learning_rate: float | int = 1e-3
    epochs: int = 2
    batch_tokens: int = 512
    warmup: float | int = 0.1
    weight_decay: float | int = 0.01
    clip: float | int = 1.0
    seed: int = 0


def trained_rows(labels_T: Int[np.ndarray, "T"], vocabulary: int) -> Int[np.ndarray, "V"]:
    """Token ids that occur among the labels, and the lowest others up to a multiple of 1024."""
    used = np.unique(labels_T)
    others = np.setdiff1d(np.arange(vocabulary), used)
    return np.sort(np.concatenate([used, others[: -len(used) % VOCABULARY_STEP]]))


def positions_of(
    head_LxD: Float[np.ndarray | Array, "L D"],
    trained_V: Int[np.ndarray, "V"],
    x_TxD: Float[np.ndarray, "T D"],
    labels_T: Int[np.ndarray, "T"],
) -> Positions:
    """One pass over the whole head, in chunks of one shape."""
    is_frozen = np.ones(len(head_LxD), bool)
    is_frozen[trained_V] = False
    head, frozen = jnp.asarray(head_LxD), jnp.asarray(is_frozen)
    chunk = scored_tokens(len(head_LxD))

    def begun() -> Iterator[tuple[Array, Array]]:
        for begin in range(0, len(x_TxD), chunk):
            own = slice(begin, begin + chunk)
            x, labels = _padded(x_TxD[own], chunk), _padded(labels_T[own], chunk)
            yield _frozen_part(head, frozen, x, labels)

    parts = [[np.asarray(p) for p in part] for part in ahead(begun())]
    rest, own_logit = (np.concatenate(p)[: len(x_TxD)] for p in zip(*parts, strict=True))
    place = np.full(len(head_LxD), -1)
    place[trained_V] = np.arange(len(trained_V))
    label = place[labels_T]
    return Positions(x_TxD, label, rest, np.where(label < 0, own_logit, 0).astype(np.float32))


def train(
    start_VxD: Float[np.ndarray | Array, "V D"],
    data: Positions,
    rows: Sequence[np.ndarray],  # (M_k,) each
    options: HeadOptions,
    weights: Float[np.ndarray, "K"] | None = None,
) -> tuple[Float[Array, "V D"], Float[np.ndarray, "S"]]:
    """AdamW on the mean NLL, rows in a new random order every epoch.

    The head, and the loss of each of its S steps in nats a token, before it.

    Args:
        start_VxD: the trained rows of the pre-trained head.
        data: the pool's positions.
        rows: of each chosen row its positions, as indices into `data`.
        options: see there; a step takes `batch_tokens` positions, the last one what is left.
        weights: (K,) of the chosen rows in the loss, default 1.
    """
    rng = np.random.default_rng(options.seed)
    order = np.concatenate([rng.permutation(len(rows)) for _ in range(options.epochs)])
    index = np.concatenate([rows[k] for k in order])
    of_row = np.ones(len(rows)) if weights is None else np.asarray(weights)
    weight = np.concatenate([np.full(len(rows[k]), of_row[k], np.float32) for k in order])
    steps = -(-len(index) // options.batch_tokens)
    short = steps * options.batch_tokens - len(index)
    index, weight = np.pad(index, (0, short)), np.pad(weight, (0, short))
    rates = learning_rates(options.learning_rate, options.warmup, steps)
    optimizer = adamw(options.clip, options.weight_decay)
    theta = jnp.array(start_VxD)
    state, losses = TrainState(theta, optimizer.init(theta)), []
    for k in range(steps):
        own = slice(k * options.batch_tokens, (k + 1) * options.batch_tokens)
        state, loss = _step(optimizer, state, data.take(index[own]), weight[own], rates[k])
        losses.append(loss)
    return state.params, np.asarray(jnp.stack(losses))


def nll(theta_VxD: Float[Array, "V D"], data: Positions) -> Float[np.ndarray, "T"]:
    """Of each position, in nats."""
    chunk = scored_tokens(len(theta_VxD))

    def begun() -> Iterator[Array]:
        for begin in range(0, len(data.x), chunk):
            own = slice(begin, begin + chunk)
            yield _nll(theta_VxD, Positions(*(_padded(part[own], chunk) for part in data)))

    return np.concatenate([np.asarray(part) for part in ahead(begun())])[: len(data.x)]


def _padded(part: np.ndarray, length: int) -> np.ndarray:
    return np.pad(part, [(0, length - len(part))] + [(0, 0)] * (part.ndim - 1))


@jax.jit
def _nll(theta_VxD: Array, data: Positions) -> Array:
    logits_TxV = jnp.matmul(jnp.asarray(data.x), theta_VxD.T, precision=HIGHEST)
    total_T = jnp.logaddexp(jax.nn.logsumexp(logits_TxV, axis=1), data.rest)
    own_T = jnp.take_along_axis(logits_TxV, jnp.maximum(data.label, 0)[:, None], axis=1)[:, 0]
    return total_T - jnp.where(data.label < 0, data.frozen_logit, own_T)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _step(
    optimizer: optax.GradientTransformation,
    state: TrainState,
    data: Positions,
    weights_T: Array,
    rate: float | Array,
) -> tuple[TrainState, Float[Array, ""]]:
    total = jnp.maximum(jnp.sum(weights_T), 1e-9)  # of a step of weights of zero, too

    def loss_of(theta):
        return jnp.sum(weights_T * _nll(theta, data)) / total

    loss, gradient = jax.value_and_grad(loss_of)(state.params)
    updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
    return TrainState(state.params - rate * updates, optimizer_state), loss  # pyright: ignore


@jax.jit
def _frozen_part(head_LxD: Array, is_frozen_L: Array, x_TxD: Array, labels_T: Array):
    logits_TxL = jnp.matmul(x_TxD, head_LxD.T, precision=HIGHEST)
    rest_T = jax.nn.logsumexp(logits_TxL, axis=1, where=is_frozen_L[None])
    return rest_T, jnp.take_along_axis(logits_TxL, labels_T[:, None], axis=1)[:, 0]
