"""GPT-2's forward pass up to the pre-logit states."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from fisher_jax.models.decoder.base import Decoder
from fisher_jax.models.decoder.linear import linear_map, looked_up
from fisher_jax.models.families.gpt2.config import GPT2Config


class GPT2Layer(nnx.Module):
    """Layer norm, attention, layer norm, MLP."""

    def __init__(self, config: GPT2Config, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        linear = functools.partial(linear_map, dtype=dtype, rngs=rngs)
        self.n_heads = config.n_heads
        self.attention_norm, self.mlp_norm = (_norm(config, dtype, rngs) for _ in range(2))
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


class GPT2(Decoder):
    """GPT-2: learned positions, layer norms, biases."""

    def __init__(
        self, config: GPT2Config, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs
    ) -> None:
        super().__init__(
            config,
            lambda rngs: GPT2Layer(config, dtype, rngs),
            lambda: _norm(config, dtype, rngs),
            dtype=dtype,
            rngs=rngs,
        )

    def _add_positions(self, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        sizes = self.config
        self.position = nnx.Embed(sizes.context, sizes.dim, param_dtype=dtype, rngs=rngs)

    def _entered(self, ids_BxT: Array, positions_BxT: Array) -> Array:
        return looked_up(self.embedding, ids_BxT) + looked_up(self.position, positions_BxT)


def _norm(config: GPT2Config, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(config.dim, epsilon=config.norm_eps, param_dtype=dtype, rngs=rngs)
