"""A stack of equal layers, one after the other under one scan."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from flax import nnx
from jaxtyping import Array

from fisher_jax.models.decoder.attention import NO_LIMITS, Attend, Memory

Layer = TypeVar("Layer", bound=nnx.Module)


def stack(make_layer: Callable[[nnx.Rngs], Layer], n_layers: int, rngs: nnx.Rngs) -> Layer:
    """`n_layers` layers as one module whose parameters have a leading layer axis."""
    return nnx.split_rngs(splits=n_layers)(nnx.vmap(make_layer))(rngs)


@jax.default_matmul_precision("highest")
def apply_stack(
    layers: nnx.Module,
    x_BxTxD: Array,
    attend: Attend,
    shared: tuple[Any, ...] = (),
    each: tuple[Any, ...] = (),
    *,
    memory: Memory = None,
    remat: bool = False,
) -> tuple[Array, Memory]:
    """The layers one after the other, compiled once: `layer(x, attend, *shared, *each)`.

    Args:
        layers: as `stack` makes them.
        x_BxTxD: input of the first.
        attend: what the layers do with queries, keys, values and their own part of the memory.
        shared: the same for every layer.
        each: arrays with a leading layer axis, of which a layer gets its own part.
        memory: likewise, or None.
        remat: recompute a layer's inside in the backward pass instead of storing it.

    Returns:
        The output of the last layer, and the new memory.
    """
    graph, state = nnx.split(layers)

    def step(x_BxTxD, of_layer):
        layer_state, own, parts = of_layer
        kept = []

        def remember(q, k, v, limits=NO_LIMITS):
            out, new = attend(q, k, v, own, limits)
            kept.append(new)
            return out

        return nnx.merge(graph, layer_state)(x_BxTxD, remember, *shared, *parts), kept[0]

    step = jax.checkpoint(step) if remat else step  # pyright: ignore[reportPrivateImportUsage]
    return jax.lax.scan(step, x_BxTxD, (state, memory, each))
