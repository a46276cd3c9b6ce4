"""GPT-2's forward pass up to the pre-logit states."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from fisher_jax.models.layers import (
    Attend,
    Memory,
    apply_stack,
    linear_map,
    looked_up,
    stack,
    whole_rows,
)


class GPT2Config(NamedTuple):
    """Sizes of a GPT-2."""

    vocab: int
    dim: int
    n_layers: int
    n_heads: int
    mlp_dim: int
    context: int
    norm_eps: float = 1e-5
    tied: bool = True


class GPT2Layer(nnx.Module):
    """Layer norm, attention, layer norm, MLP."""

    def __init__(self, config: GPT2Config, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        def norm() -> nnx.LayerNorm:
            return nnx.LayerNorm(config.dim, epsilon=config.norm_eps, param_dtype=dtype, rngs=rngs)

        linear = functools.partial(linear_map, dtype=dtype, rngs=rngs)
        self.n_heads = config.n_heads
        self.attention_norm, self.mlp_norm = norm(), norm()
        self.query_key_value = linear(config.dim, 3 * config.dim)
        self.output = linear(config.dim, config.dim)
        self.up = linear(config.dim, config.mlp_dim)
        self.down = linear(config.mlp_dim, config.dim)

    def __call__(
        self, x_BxTxD: Float[Array, "B T D"], attend: Callable[[Array, Array, Array], Array]
    ) -> Float[Array, "B T D"]:
        """One layer with its two residual connections."""
        qkv = self.query_key_value(self.attention_norm(x_BxTxD))
        q, k, v = (x.reshape(*x.shape[:2], self.n_heads, -1) for x in jnp.split(qkv, 3, axis=-1))
        x_BxTxD += self.output(attend(q, k, v).reshape(x_BxTxD.shape))
        return x_BxTxD + self.down(jax.nn.gelu(self.up(self.mlp_norm(x_BxTxD)), approximate=True))


class GPT2(nnx.Module):
    """Token ids to pre-logit embeddings; the logits are `hidden @ head.T`."""

    def __init__(
        self, config: GPT2Config, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs
    ) -> None:
        self.config = config
        self.embedding = nnx.Embed(config.vocab, config.dim, param_dtype=dtype, rngs=rngs)
        self.position = nnx.Embed(config.context, config.dim, param_dtype=dtype, rngs=rngs)
        self.layers = stack(lambda rngs: GPT2Layer(config, dtype, rngs), config.n_layers, rngs)
        self.norm = nnx.LayerNorm(config.dim, epsilon=config.norm_eps, param_dtype=dtype, rngs=rngs)
        if not config.tied:
            self.untied_head = nnx.Embed(config.vocab, config.dim, param_dtype=dtype, rngs=rngs)

    @property
    def head(self) -> Float[Array, "L D"]:
        """The last layer, Theta^T of the softmax model."""
        module = self.embedding if self.config.tied else self.untied_head
        return module.embedding[...]

    def __call__(self, ids_BxT: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Hidden states after the final norm: position t predicts token t + 1."""
        return self.states(ids_BxT, jnp.arange(ids_BxT.shape[1])[None])[0]

    def states(
        self,
        ids_BxT: Int[Array, "B T"],
        positions_BxT: Int[Array, "#B T"],
        attend: Attend = whole_rows,
        memory: Memory = None,
        remat: bool = False,
    ) -> tuple[Float[Array, "B T D"], Memory]:
        """Hidden states of tokens at given positions, and the memory; see `apply_stack`."""
        x_BxTxD = looked_up(self.embedding, ids_BxT) + looked_up(self.position, positions_BxT)
        x_BxTxD, memory = apply_stack(self.layers, x_BxTxD, attend, memory=memory, remat=remat)
        return self.norm(x_BxTxD), memory
