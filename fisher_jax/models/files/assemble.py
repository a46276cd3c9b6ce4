"""Named tensors of a checkpoint into a model: every one accounted for, every shape checked."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from fisher_jax.design import aligned
from fisher_jax.models.decoder import Decoder
from fisher_jax.models.errors import ModelError
from fisher_jax.models.families import Family, family_of

_SIZES = ("vocab", "dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "mlp_dim", "context")
_NUMBERS = ("norm_eps", "query_width", "attention_cap", "logit_cap", "embedding_scale")
LARGEST = 2**31 - 1  # of a size


def checked_sizes(config: Any, where: object) -> Any:
    """The same sizes.

    Raises:
        ModelError: one that is no whole number of at least 1, or heads that don't divide what
            they share.
    """
    sizes = config._asdict()
    for name, value in sizes.items():
        if name in _SIZES and (type(value) is not int or not 1 <= value <= LARGEST):
            shown = str(value)[:20]
            raise ModelError(
                f"{where}: {name} must be a whole number of at least 1 and at most {LARGEST}, "
                f"got {shown}: get it anew"
            )
        if name in _NUMBERS and value is not None and not _is_positive(value):
            shown = str(value)[:20]
            raise ModelError(f"{where}: {name} must be a positive number, got {shown}: get it anew")
    heads = sizes["n_heads"]
    if "n_kv_heads" in sizes and heads % sizes["n_kv_heads"]:
        raise ModelError(
            f"{where}: {sizes['n_kv_heads']} key heads do not divide {heads} heads: get it anew"
        )
    if "head_dim" in sizes and sizes["head_dim"] % 2:
        raise ModelError(
            f"{where}: heads of the odd width {sizes['head_dim']} can't be rotated: get it anew"
        )
    if "head_dim" not in sizes and sizes["dim"] % heads:
        raise ModelError(
            f"{where}: {heads} heads do not divide the width {sizes['dim']}: get it anew"
        )
    for rope in sizes.get("ropes", ()):
        if rope is not None and (problem := rope.problem(sizes["head_dim"])):
            raise ModelError(f"{where}: {problem}: get it anew")
    return config


def _is_positive(value: object) -> bool:
    return isinstance(value, (int, float)) and 0 < value < 1e30


class Tensor(NamedTuple):
    """A tensor of a file that is read only when asked for."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


class Slot(NamedTuple):
    """Which rows of which tensors a parameter is made of, one tensor a layer.

    Attributes:
        names: of the tensors.
        shape: of the whole tensor in the file.
        rows: those of the parameter.
        is_turned: whether the file has the parameter's transpose.
    """

    names: list[str]
    shape: tuple[int, ...]
    rows: slice
    is_turned: bool


def assemble(
    config: Any, tensors: Mapping[str, Tensor], layout: str, dtype: DTypeLike, where: str
) -> Decoder:
    """A model of `config` whose parameters are `tensors`.

    The largest tensors are read first, and each straight into its place, so that the most memory
    needed is little more than the parameters' own.

    Args:
        config: sizes.
        tensors: all of a checkpoint's tensors, without those known to be no parameters.
        layout: "safetensors" or "gguf", whose names the tensors have.
        dtype: of the parameters.
        where: the file or folder, for messages.

    Raises:
        ModelError: a tensor is missing, superfluous or of a wrong shape.
    """
    family = family_of(config)
    _check_layers(config, family, tensors, layout, where)
    graph, state = nnx.split(
        nnx.eval_shape(lambda: family.module(config, dtype=dtype, rngs=nnx.Rngs(0)))
    )
    leaves = dict(nnx.to_flat_state(state))
    slots = slots_of({path: leaf.shape for path, leaf in leaves.items()}, family, layout)
    for slot in slots.values():
        for name in slot.names:
            if name in tensors and tensors[name].shape != slot.shape:
                raise ModelError(
                    f"{where}: tensor {name} has shape {tensors[name].shape}, its "
                    f"configuration asks for {slot.shape}; use matching config and weights"
                )
    needed = {name for slot in slots.values() for name in slot.names}
    for kind, rest in (("lacks", needed - set(tensors)), ("has unknown", set(tensors) - needed)):
        if rest:
            raise ModelError(
                f"{where} {kind} tensor {min(rest)} ({len(rest)} such): it is not the "
                f"{family.title} that its configuration describes; get it anew or mend the "
                "configuration"
            )

    def load(path: tuple) -> jax.Array:
        slot, shape = slots[path], leaves[path].shape
        value = aligned(shape, dtype)
        for name, place in zip(slot.names, value if _is_stacked(path) else [value], strict=True):
            array = np.asarray(tensors[name].read())[slot.rows]
            place[...] = array.T if slot.is_turned else array
        return jnp.asarray(value)

    by_size = sorted(leaves, key=lambda path: -math.prod(slots[path].shape))
    loaded = {path: leaves[path].replace(load(path)) for path in by_size}
    return nnx.merge(graph, nnx.from_flat_state({path: loaded[path] for path in leaves}))


def slots_of(
    shapes: Mapping[tuple, tuple[int, ...]], family: Family, layout: str
) -> dict[tuple, Slot]:
    """Where in a checkpoint's tensors the parameters of a model are.

    Args:
        shapes: of the parameters by their path, those of stacked layers with the layer axis.
        family: whose names the tensors have.
        layout: "safetensors" or "gguf".
    """
    order = {module: k for k, module in enumerate(family.names)}
    rows_so_far: dict[str, int] = {}
    places = {}
    for path in sorted(shapes, key=lambda path: order[_module(path)]):
        pattern = getattr(family.names[_module(path)], layout)
        name = f"{pattern}.{'bias' if path[-1] == 'bias' else 'weight'}"
        shape = shapes[path][1:] if _is_stacked(path) else shapes[path]
        is_turned = path[-1] == "kernel" and (layout == "gguf" or family.turns_kernels)
        stored = shape[::-1] if is_turned else shape
        begin = rows_so_far.get(name, 0)
        rows_so_far[name] = begin + stored[0]
        places[path] = (name, stored, slice(begin, begin + stored[0]), is_turned)
    slots = {}
    for path, (name, stored, rows, is_turned) in places.items():
        layers = range(shapes[path][0]) if _is_stacked(path) else [None]
        whole = (rows_so_far[name], *stored[1:])
        slots[path] = Slot([name.format(layer) for layer in layers], whole, rows, is_turned)
    return slots


def _check_layers(
    config: Any, family: Family, tensors: Mapping[str, Tensor], layout: str, where: str
) -> None:
    """Before anything is made: as many layers as the file's tensors name."""
    first = next(n for module, n in family.names.items() if module.startswith("layers."))
    prefix = getattr(first, layout).partition("{}")[0]
    numbers = {int(m[1]) for n in tensors if (m := re.match(re.escape(prefix) + r"(\d+)\.", n))}
    if len(numbers) < config.n_layers and config.n_layers > 2 * len(numbers) + 8:
        raise ModelError(
            f"{where}: its configuration says {config.n_layers} layers, its tensors are of "
            f"{len(numbers)}; use matching config and weights"
        )


def _module(path: tuple) -> str:
    return ".".join(map(str, path[:-1]))


def _is_stacked(path: tuple) -> bool:
    return path[0] == "layers"
