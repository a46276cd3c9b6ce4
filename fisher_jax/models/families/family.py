"""What a family says of itself."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from fisher_jax.models.decoder import Decoder, RotaryDecoder
from fisher_jax.models.errors import ModelError


class Names(NamedTuple):
    """A module's name in a Hugging Face checkpoint and in a GGUF; `{}` is the layer.

    Modules of one name share a tensor: their rows one after the other, in the order of the table.
    """

    safetensors: str
    gguf: str


class JsonFields(NamedTuple):
    """The content of a config.json, and its path for messages."""

    raw: Mapping[str, Any]
    path: Path

    def require(self, **allowed: tuple[Any, ...]) -> None:
        """Refuse another value than those; a missing one is the first.

        Raises:
            ModelError: there is one.
        """
        for key, values in allowed.items():
            if self.raw.get(key, values[0]) not in values:
                raise ModelError(
                    f"{self.path}: {key} = {self.raw[key]!r} is not supported, only {values} is"
                )


@runtime_checkable
class Metadata(Protocol):
    """The metadata of a GGUF."""

    @property
    def path(self) -> Path:
        """The file."""
        ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of all tensors, in (out, in) order."""
        ...

    def field(self, key: str, default: Any = ...) -> Any:
        """A value; `{arch}` in the key stands for the architecture."""
        ...

    def numbers(self, tensor: str) -> tuple[float, ...]:
        """A small tensor that is no parameter."""
        ...


class Family(NamedTuple):
    """How a family's files name things, and what it is made of.

    Attributes:
        title: in messages.
        model_types: of config.json; the first is written.
        architecture: of a GGUF.
        transformers_class: of `architectures` in config.json.
        names: of all modules that have parameters.
        from_json, to_json: the configuration from config.json's fields and back.
        from_gguf: the configuration from a GGUF's metadata.
        module: makes the model from its configuration, `dtype=` and `rngs=`.
        prefix: of most tensors in a Hugging Face checkpoint.
        turns_kernels: whether a Hugging Face checkpoint stores kernels as (out, in).
        pairs_in_gguf: whether a GGUF has the rows of queries and keys in interleaved pairs.
        offset_in_gguf: whether a GGUF has 1 + scale for the scale of a norm.
    """

    title: str
    model_types: tuple[str, ...]
    architecture: str
    transformers_class: str
    names: Mapping[str, Names]
    from_json: Callable[[JsonFields], Any]
    to_json: Callable[[Any], dict[str, Any]]
    from_gguf: Callable[[Metadata], Any]
    module: Callable[..., Decoder] = RotaryDecoder
    prefix: str = "model."
    turns_kernels: bool = True
    pairs_in_gguf: bool = False
    offset_in_gguf: bool = False
