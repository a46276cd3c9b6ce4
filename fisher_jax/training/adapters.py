"""What is trained of a model: all of it, low-rank adapters (LoRA), or the last layer."""

from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from fisher_jax.models import Decoder, project, stack
from fisher_jax.util.errors import UserError

Method = Literal["full", "lora", "last_layer"]
METHODS = ("full", "lora", "last_layer")


def prepare(
    module: Decoder, method: Method, rank: int, seed: int
) -> tuple[Decoder, nnx.filterlib.Filter]:
    """The module to train, sharing what it can with the given one, and which variables to train.

    Raises:
        ValueError: an unknown method.
    """
    module = nnx.merge(*nnx.split(module))  # another object with the same arrays
    if method == "full":
        return module, nnx.Param
    if method == "lora":
        return with_lora(module, rank, seed), nnx.LoRAParam
    if method == "last_layer":
        return untied(module), nnx.PathContains("untied_head")
    raise UserError(f"method must be one of {', '.join(METHODS)}, got {method!r}")


class Adapter(nnx.LoRA):
    """flax's adapter, its products by `project`."""

    def __call__(self, x: Array, **_: object) -> Array:
        """`x W + x A B`."""
        assert isinstance(self.base_module, nnx.Linear)
        return self.base_module(x) + project(project(x, self.lora_a[...]), self.lora_b[...])


def with_lora(module: Decoder, rank: int, seed: int) -> Decoder:
    """Every linear map of every layer gets an adapter: `x W + x A B`, A random and B zero.

    Hu et al., arXiv 2106.09685, with alpha = rank.
    """
    rngs = nnx.Rngs(seed)
    for name, linear in list(vars(module.layers).items()):
        if isinstance(linear, nnx.Linear):

            def adapter(rngs: nnx.Rngs, linear: nnx.Linear = linear) -> Adapter:
                return Adapter(linear.in_features, rank, linear.out_features, rngs=rngs)

            adapters = stack(adapter, module.config.n_layers, rngs)
            adapters.base_module = nnx.data(linear)
            setattr(module.layers, name, adapters)
    return module


def merged(module: Decoder) -> Decoder:
    """The same function without adapters: `W + A B`."""
    module = nnx.merge(*nnx.split(module))
    for name, adapter in list(vars(module.layers).items()):
        if isinstance(adapter, Adapter):
            linear = adapter.base_module
            assert isinstance(linear, nnx.Linear)
            change = jnp.matmul(adapter.lora_a[...], adapter.lora_b[...], precision="highest")
            kernel = linear.kernel[...]
            linear.kernel = nnx.Param(kernel + change.astype(kernel.dtype))  # a new variable
            setattr(module.layers, name, linear)
    return module


def untied(module: Decoder) -> Decoder:
    """The same function with a head of its own."""
    if not module.config.tied:
        return module
    graph, state = nnx.split(module)
    module = nnx.merge(graph, state)
    head = module.head
    module.untied_head = nnx.eval_shape(lambda: nnx.Embed(*head.shape, rngs=nnx.Rngs(0)))
    module.untied_head.embedding = nnx.Param(jnp.copy(head))
    module.config = module.config._replace(tied=False)  # pyright: ignore
    return module
