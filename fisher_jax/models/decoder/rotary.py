"""One module for all families that rotate queries and keys; its options are what they differ in."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from fisher_jax.models.decoder.attention import Limits
from fisher_jax.models.decoder.base import Decoder
from fisher_jax.models.decoder.linear import linear_map, looked_up
from fisher_jax.models.decoder.rope import Rope, Turn, rotate, turn_of

NO_WINDOW = 1 << 30  # more than any context


class RotaryConfig(NamedTuple):
    """Sizes and options of a rotary decoder.

    Attributes:
        ropes: one for all layers, or one a layer; None rotates nothing.
        windows: positions that each layer's queries see, None for all; empty if none has one.
        qkv_bias, output_bias, mlp_bias: whether these linear maps have biases.
        activation: of the gated MLP; "gelu" is its approximation by tanh.
        pre_norms: norms before attention and MLP.
        post_norms: norms after them, before their sums are added.
        query_key_norm: norms of queries and keys, of each head or of all heads together.
        norm_offset: norms multiply by 1 + scale.
        query_width: queries are divided by its square root; default the width of a head.
        attention_cap, logit_cap: of the logits of attention and of the model, see `capped`.
        embedding_scale: factor on the embeddings of tokens.
        family: the folder in `fisher_jax.models.families` whose files it came from.
    """

    vocab: int
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    mlp_dim: int
    context: int
    norm_eps: float = 1e-5
    ropes: tuple[Rope | None, ...] = (Rope(),)
    windows: tuple[int | None, ...] = ()
    tied: bool = True
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    activation: Literal["silu", "gelu"] = "silu"
    pre_norms: bool = True
    post_norms: bool = False
    query_key_norm: Literal["head", "all"] | None = None
    norm_offset: bool = False
    query_width: float | None = None
    attention_cap: float | None = None
    logit_cap: float | None = None
    embedding_scale: float | None = None
    family: str = "llama"


class OffsetRMSNorm(nnx.Module):
    """`x / rms(x) (1 + scale)`, computed in float32 (Gemma)."""

    def __init__(self, dim: int, epsilon: float, dtype: DTypeLike) -> None:
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.zeros(dim, dtype))

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """The norm of each vector."""
        wide = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        normed = wide * jax.lax.rsqrt(mean_square + self.epsilon)
        return (normed * (1 + self.scale[...].astype(jnp.float32))).astype(x.dtype)


class RotaryLayer(nnx.Module):
    """RMS norm, grouped-query attention, RMS norm, gated MLP."""

    def __init__(self, config: RotaryConfig, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        norm = functools.partial(_norm, config, dtype=dtype, rngs=rngs)
        linear = functools.partial(linear_map, dtype=dtype, rngs=rngs)
        dim, head_dim, bias = config.dim, config.head_dim, config.qkv_bias
        queries, keys = config.n_heads * head_dim, config.n_kv_heads * head_dim
        self.config = config
        if config.pre_norms:
            self.attention_norm, self.mlp_norm = norm(dim), norm(dim)
        if config.post_norms:
            self.attention_post_norm, self.mlp_post_norm = norm(dim), norm(dim)
        if config.query_key_norm is not None:
            in_head = config.query_key_norm == "head"
            self.query_norm = norm(head_dim if in_head else queries)
            self.key_norm = norm(head_dim if in_head else keys)
        self.query = linear(dim, queries, bias)
        self.key = linear(dim, keys, bias)
        self.value = linear(dim, keys, bias)
        self.output = linear(queries, dim, config.output_bias)
        self.gate = linear(dim, config.mlp_dim, config.mlp_bias)
        self.up = linear(dim, config.mlp_dim, config.mlp_bias)
        self.down = linear(config.mlp_dim, dim, config.mlp_bias)

    def __call__(
        self,
        x_BxTxD: Float[Array, "B T D"],
        attend: Callable[[Array, Array, Array, Limits], Array],
        positions_BxT: Int[Array, "#B T"],
        turn: Turn,
        window: Int[Array, ""] | None = None,
    ) -> Float[Array, "B T D"]:
        """One layer with its two residual connections."""
        config = self.config
        h_BxTxD = self.attention_norm(x_BxTxD) if config.pre_norms else x_BxTxD
        q_BxTxHxE = rotate(self._heads(self.query(h_BxTxD), "query_norm"), positions_BxT, turn)
        k_BxTxGxE = rotate(self._heads(self.key(h_BxTxD), "key_norm"), positions_BxT, turn)
        if config.query_width is not None:  # attention divides by the root of a head's width
            q_BxTxHxE *= (config.head_dim / config.query_width) ** 0.5
        v_BxTxGxE = self._heads(self.value(h_BxTxD))
        attended = attend(q_BxTxHxE, k_BxTxGxE, v_BxTxGxE, Limits(window, config.attention_cap))
        h_BxTxD = self.output(attended.reshape(*x_BxTxD.shape[:2], -1))
        x_BxTxD += self.attention_post_norm(h_BxTxD) if config.post_norms else h_BxTxD
        h_BxTxD = self.mlp_norm(x_BxTxD) if config.pre_norms else x_BxTxD
        h_BxTxD = self.down(self._activated(self.gate(h_BxTxD)) * self.up(h_BxTxD))
        return x_BxTxD + (self.mlp_post_norm(h_BxTxD) if config.post_norms else h_BxTxD)

    def _heads(self, x: Array, norm: str | None = None) -> Array:
        """Cut into heads, and normed where this config norms queries and keys."""
        kind = None if norm is None else self.config.query_key_norm
        x = getattr(self, str(norm))(x) if kind == "all" else x
        x = x.reshape(*x.shape[:2], -1, self.config.head_dim)
        return getattr(self, str(norm))(x) if kind == "head" else x

    def _activated(self, x: Array) -> Array:
        if self.config.activation == "gelu":
            return jax.nn.gelu(x, approximate=True)
        return jax.nn.silu(x)


class RotaryDecoder(Decoder):
    """Llama and its kin."""

    config: RotaryConfig

    def __init__(
        self, config: RotaryConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs
    ) -> None:
        super().__init__(
            config,
            lambda rngs: RotaryLayer(config, dtype, rngs),
            lambda: _norm(config, config.dim, dtype=dtype, rngs=rngs),
            dtype=dtype,
            rngs=rngs,
        )
        self.logit_cap = config.logit_cap

    def _entered(self, ids_BxT: Array, positions_BxT: Array) -> Array:
        x_BxTxD = looked_up(self.embedding, ids_BxT)
        scale = self.config.embedding_scale
        return x_BxTxD if scale is None else x_BxTxD * jnp.asarray(scale, x_BxTxD.dtype)

    def _layer_arguments(self, positions_BxT: Array) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        config = self.config
        width = max(rope.width(config.head_dim) for rope in config.ropes if rope is not None)
        turns = [turn_of(rope, config.head_dim, width) for rope in config.ropes]
        windows = [NO_WINDOW if window is None else window for window in config.windows]
        own_window = (jnp.asarray(windows, jnp.int32),) if windows else ()
        if len(turns) == 1:
            return (positions_BxT, turns[0]), own_window
        turn = jax.tree.map(lambda *parts: jnp.stack([jnp.asarray(p) for p in parts]), *turns)
        return (positions_BxT,), (turn, *own_window)


def _norm(
    config: RotaryConfig, dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs
) -> nnx.RMSNorm | OffsetRMSNorm:
    if config.norm_offset:
        return OffsetRMSNorm(dim, config.norm_eps, dtype)
    return nnx.RMSNorm(dim, epsilon=config.norm_eps, param_dtype=dtype, rngs=rngs)
