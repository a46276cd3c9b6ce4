"""Llama's forward pass (SmolLM2, Llama 2 and 3 and their kin) up to the pre-logit states."""

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


class Llama3Rope(NamedTuple):
    """Llama 3.1's stretching of the slow rotary frequencies."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


class LlamaConfig(NamedTuple):
    """Sizes of a Llama. `rope_scaling`: a factor on positions, or Llama 3's rule."""

    vocab: int
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    mlp_dim: int
    context: int
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: float | Llama3Rope = 1.0
    tied: bool = True
    attention_bias: bool = False
    mlp_bias: bool = False


def rope_frequencies(config: LlamaConfig) -> Float[Array, "F"]:
    """Rotary angle per position of each pair of a head's coordinates, `theta^(-2i/E)`."""
    pair = jnp.arange(0, config.head_dim, 2, dtype=jnp.float32) / config.head_dim
    frequency = config.rope_theta**-pair
    scaling = config.rope_scaling
    if not isinstance(scaling, Llama3Rope):
        return frequency / scaling
    turns = scaling.original_context * frequency / (2 * jnp.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep = jnp.clip((turns - low) / (high - low), 0, 1)
    return frequency * (keep + (1 - keep) / scaling.factor)


def rotate(x_BxTxHxE: Float[Array, "B T H E"], angle_BxTxF: Float[Array, "#B T F"]) -> Array:
    """Rotary position embedding, first half of the coordinates against the second."""
    cos, sin = jnp.cos(angle_BxTxF)[:, :, None], jnp.sin(angle_BxTxF)[:, :, None]
    a, b = jnp.split(x_BxTxHxE.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return rotated.astype(x_BxTxHxE.dtype)


class LlamaLayer(nnx.Module):
    """RMS norm, grouped-query attention, RMS norm, gated MLP."""

    def __init__(self, config: LlamaConfig, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        def norm() -> nnx.RMSNorm:
            return nnx.RMSNorm(config.dim, epsilon=config.norm_eps, param_dtype=dtype, rngs=rngs)

        linear = functools.partial(linear_map, dtype=dtype, rngs=rngs)
        dim, bias = config.dim, config.attention_bias
        self.head_dim = config.head_dim
        self.attention_norm, self.mlp_norm = norm(), norm()
        self.query = linear(dim, config.n_heads * config.head_dim, bias)
        self.key = linear(dim, config.n_kv_heads * config.head_dim, bias)
        self.value = linear(dim, config.n_kv_heads * config.head_dim, bias)
        self.output = linear(config.n_heads * config.head_dim, dim, bias)
        self.gate = linear(dim, config.mlp_dim, config.mlp_bias)
        self.up = linear(dim, config.mlp_dim, config.mlp_bias)
        self.down = linear(config.mlp_dim, dim, config.mlp_bias)

    def __call__(
        self,
        x_BxTxD: Float[Array, "B T D"],
        attend: Callable[[Array, Array, Array], Array],
        angle_BxTxF: Float[Array, "#B T F"],
    ) -> Float[Array, "B T D"]:
        """One layer with its two residual connections."""

        def heads(x: Array) -> Array:
            return x.reshape(*x.shape[:2], -1, self.head_dim)

        h_BxTxD = self.attention_norm(x_BxTxD)
        q_BxTxHxE = rotate(heads(self.query(h_BxTxD)), angle_BxTxF)
        k_BxTxGxE = rotate(heads(self.key(h_BxTxD)), angle_BxTxF)
        attended = attend(q_BxTxHxE, k_BxTxGxE, heads(self.value(h_BxTxD)))
        x_BxTxD += self.output(attended.reshape(*x_BxTxD.shape[:2], -1))
        h_BxTxD = self.mlp_norm(x_BxTxD)
        return x_BxTxD + self.down(jax.nn.silu(self.gate(h_BxTxD)) * self.up(h_BxTxD))


class Llama(nnx.Module):
    """Token ids to pre-logit embeddings; the logits are `hidden @ head.T`."""

    def __init__(
        self, config: LlamaConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs
    ) -> None:
        self.config = config
        self.embedding = nnx.Embed(config.vocab, config.dim, param_dtype=dtype, rngs=rngs)
        self.layers = stack(lambda rngs: LlamaLayer(config, dtype, rngs), config.n_layers, rngs)
        self.norm = nnx.RMSNorm(config.dim, epsilon=config.norm_eps, param_dtype=dtype, rngs=rngs)
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
        frequency_F = rope_frequencies(self.config)
        angle_BxTxF = positions_BxT[:, :, None].astype(jnp.float32) * frequency_F[None, None]
        x_BxTxD = looked_up(self.embedding, ids_BxT)
        x_BxTxD, memory = apply_stack(
            self.layers, x_BxTxD, attend, angle_BxTxF, memory=memory, remat=remat
        )
        return self.norm(x_BxTxD), memory
