"""What every decoder has: a table of tokens, layers, a last norm and a head."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from fisher_jax.models.decoder.attention import Attend, Memory, whole_rows
from fisher_jax.models.decoder.linear import looked_up
from fisher_jax.models.decoder.stack import apply_stack, stack


@runtime_checkable
class Sizes(Protocol):
    """What all configurations have; each is a NamedTuple of its family."""

    @property
    def vocab(self) -> int:
        """Labels L."""
        ...

    @property
    def dim(self) -> int:
        """Embedding width D."""
        ...

    @property
    def n_layers(self) -> int:
        """Layers."""
        ...

    @property
    def n_heads(self) -> int:
        """Heads of a layer's attention."""
        ...

    @property
    def mlp_dim(self) -> int:
        """Width inside an MLP."""
        ...

    @property
    def context(self) -> int:
        """Longest row in tokens."""
        ...

    @property
    def tied(self) -> bool:
        """Whether the head is the table of tokens."""
        ...

    @property
    def family(self) -> str:
        """The folder in `fisher_jax.models.families`."""
        ...

    def _asdict(self) -> dict[str, Any]: ...

    def _replace(self, **changes: Any) -> Any: ...


class Decoder(nnx.Module):
    """Token ids to pre-logit embeddings; the logits are `capped(hidden @ head.T, logit_cap)`.

    A family says what its layers are and how tokens and positions enter.

    Args:
        config: sizes.
        make_layer: a layer of them.
        make_norm: the norm after the last.
        dtype: of the parameters.
        rngs: of their random start.
    """

    logit_cap: float | None = None

    def __init__(
        self,
        config: Sizes,
        make_layer: Callable[[nnx.Rngs], nnx.Module],
        make_norm: Callable[[], nnx.Module],
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.config = config
        self.embedding = nnx.Embed(config.vocab, config.dim, param_dtype=dtype, rngs=rngs)
        self._add_positions(dtype, rngs)
        self.layers = stack(make_layer, config.n_layers, rngs)
        self.norm = make_norm()
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
        x_BxTxD = self._entered(ids_BxT, positions_BxT)
        shared, each = self._layer_arguments(positions_BxT)
        x_BxTxD, memory = apply_stack(
            self.layers, x_BxTxD, attend, shared, each, memory=memory, remat=remat
        )
        return self.norm(x_BxTxD), memory  # pyright: ignore[reportCallIssue]

    def _add_positions(self, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        """Parameters of positions, if there are any."""

    def _entered(self, ids_BxT: Array, positions_BxT: Array) -> Array:
        """What enters the first layer."""
        return looked_up(self.embedding, ids_BxT)

    def _layer_arguments(self, positions_BxT: Array) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """What every layer gets, and arrays of which each gets its own part."""
        return (), ()
