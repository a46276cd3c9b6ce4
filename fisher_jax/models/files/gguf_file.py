"""A GGUF file (llama.cpp's format) as a model and its tokenizer, without torch."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from jax.typing import DTypeLike

from fisher_jax.models.decoder import Decoder
from fisher_jax.models.errors import ModelError
from fisher_jax.models.families import all_families, family_of, of_architecture
from fisher_jax.models.files.assemble import Tensor, assemble, checked_sizes
from fisher_jax.models.files.gguf_tokenizer import gguf_tokenizer
from fisher_jax.util.errors import UserError
from fisher_jax.util.excerpt import one_line

# tensors of a GGUF that are no parameters
_FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


class _Reader(gguf.GGUFReader):
    """The package's reader, with arrays of numbers taken at once.

    It makes two objects of every number and does not notice the file's end, so that one damaged
    length would take all memory.
    """

    def _get_field_parts(self, orig_offs: int, raw_type: Any) -> tuple[int, list, list, list]:
        if raw_type != gguf.GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        kind, length = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)
        number, begin = self.gguf_scalar_to_np.get(gguf.GGUFValueType(kind[0])), orig_offs + 12
        if number is None:
            return super()._get_field_parts(orig_offs, raw_type)
        n_bytes = int(length[0]) * np.dtype(number).itemsize
        if n_bytes > len(self.data) - begin:
            raise UserError(f"an array of {length[0]} numbers goes past its end")
        values = self._get(begin, number, length[0])
        types = [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType(kind[0])]
        return 12 + n_bytes, [kind, length, values], [2], types


class GGUFFile:
    """An open GGUF: `field(key)`, `tensors()`, `config()`, `model(dtype)`, `tokenizer()`.

    Raises:
        ModelError: in the constructor for a file that is not a whole GGUF; in the methods for
            what the forward passes and the tokenizers can't do.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = _opened(path)
        self.parts = [path]
        if (count := self.field("split.count", 1)) != 1:
            self.parts = _parts(path, count)
            self._reader = _opened(self.parts[0])  # which has the metadata
        readers = [self._reader, *map(_opened, self.parts[1:])]
        self._tensors = [tensor for reader in readers for tensor in reader.tensors]
        self.architecture = self.field("general.architecture")

    def field(self, key: str, default: Any = ModelError) -> Any:
        """A metadata value; `{arch}` in the key stands for the architecture."""
        if "{arch}" in key:
            key = key.format(arch=self.architecture)
        field = self._reader.fields.get(key)
        if field is not None:
            try:
                return field.contents()
            except UnicodeDecodeError:
                raise ModelError(
                    f"{self.path}: its metadata {key} is damaged: download it anew"
                ) from None
        if default is ModelError:
            raise ModelError(f"{self.path} has no metadata {key}: get a complete GGUF")
        return default

    def tensors(self) -> dict[str, Tensor]:
        """All tensors in (out, in) order, dequantised when read."""

        def read(tensor: gguf.ReaderTensor) -> np.ndarray:
            try:
                return gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            except NotImplementedError:
                raise ModelError(
                    f"{self.path}: quantisation {tensor.tensor_type.name} of "
                    f"{tensor.name} is not supported; use another file"
                ) from None

        shapes = self.shapes
        return {t.name: Tensor(shapes[t.name], lambda t=t: read(t)) for t in self._tensors}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all tensors, in (out, in) order."""
        return {t.name: tuple(int(n) for n in t.shape[::-1]) for t in self._tensors}

    def numbers(self, tensor: str) -> tuple[float, ...]:
        """A small tensor that is no parameter."""
        return tuple(map(float, self.tensors()[tensor].read().ravel()))

    def config(self) -> Any:
        """The sizes in the metadata."""
        if (family := of_architecture(self.architecture)) is None:
            known = ", ".join(f.architecture for f in all_families().values())
            raise ModelError(
                f"{self.path}: architecture {self.architecture!r} is not supported, "
                f"only {known} are"
            )
        n_layers, n_tensors = self.field("{arch}.block_count"), len(self._tensors)
        if type(n_layers) is not int or n_layers > n_tensors:
            raise ModelError(
                f"{self.path}: its metadata say {str(n_layers)[:20]} layers, but it has "
                f"{n_tensors} tensors in all: download it anew"
            )
        try:
            return checked_sizes(family.from_gguf(self), self.path)
        except (TypeError, ArithmeticError) as error:
            raise ModelError(
                f"{self.path}: its sizes are damaged ({one_line(error)}): download it anew"
            ) from None

    def model(self, dtype: DTypeLike) -> Decoder:
        """The model, its tensors in the order and scale that the forward pass has."""
        config, tensors = self.config(), self.tensors()
        family = family_of(config)
        for name in _FACTORS:
            tensors.pop(name, None)

        def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
            shape, read = tensors[name]
            tensors[name] = Tensor(shape, lambda: change(read()))

        for name in list(tensors):
            if family.pairs_in_gguf and (".attn_q." in name or ".attn_k." in name):
                changed(name, functools.partial(_unpermute, head_dim=config.head_dim))
            if family.offset_in_gguf and name.endswith("norm.weight"):
                changed(name, lambda scale: scale - 1)
        return assemble(config, tensors, "gguf", dtype, str(self.path))

    def tokenizer(self) -> Callable[..., Any]:
        """The tokenizer that the metadata describe; see `gguf_tokenizer`."""
        return gguf_tokenizer(self)


def _opened(path: Path) -> _Reader:
    try:
        return _Reader(path)
    except Exception as error:  # the reader's own errors have no common base
        reason = one_line(error)
        raise ModelError(f"{path} is not a whole GGUF file ({reason}): download it anew") from None


def _parts(path: Path, count: object) -> list[Path]:
    """All files of a split GGUF, of which this is one."""
    name = re.fullmatch(r"(.*-)\d{5}(-of-(\d{5})\.gguf)", path.name)
    if name is None or type(count) is not int or count != int(name[3]):
        raise ModelError(
            f"{path} is a part of a GGUF in {str(count)[:20]} files, which must be named "
            "NAME-00001-of-0000N.gguf: give all of them their own names"
        )
    parts = [path.with_name(f"{name[1]}{k:05d}{name[2]}") for k in range(1, count + 1)]
    for part in parts:
        if not part.is_file():
            raise ModelError(f"{part} is missing, a part of the same model: download it, too")
    return parts


def _unpermute(weights: np.ndarray, head_dim: int) -> np.ndarray:
    """GGUF stores a head's rows as interleaved rotation pairs; ours rotates halves."""
    pairs = weights.reshape(-1, head_dim // 2, 2, *weights.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weights.shape)
