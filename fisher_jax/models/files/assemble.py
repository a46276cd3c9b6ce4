"""Named tensors of a checkpoint into a model: every one accounted for, every shape checked."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from fisher_jax.models.gpt2 import GPT2, GPT2Config
from fisher_jax.models.llama import Llama, LlamaConfig
from fisher_jax.util.errors import UserError

_SIZES = ("vocab", "dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "mlp_dim", "context")


class ModelError(UserError):
    """A model that can't be had or used; the message says which, why and what to do."""


def checked_sizes(config: "LlamaConfig | GPT2Config", where: object) -> "LlamaConfig | GPT2Config":
    """The same sizes.

    Raises:
        ModelError: one that is no whole number of at least 1, or heads that don't divide what
            they share.
    """
    for name, value in config._asdict().items():
        if name in _SIZES and (type(value) is not int or value < 1):
            raise ModelError(
                f"{where}: {name} must be a whole number of at least 1, got {value!r}: get it anew"
            )
    if isinstance(config, LlamaConfig) and config.n_heads % config.n_kv_heads:
        raise ModelError(
            f"{where}: {config.n_kv_heads} key heads do not divide {config.n_heads} heads: "
            "get it anew"
        )
    if isinstance(config, LlamaConfig) and config.head_dim % 2:
        raise ModelError(
            f"{where}: heads of the odd width {config.head_dim} can't be rotated: get it anew"
        )
    if isinstance(config, GPT2Config) and config.dim % config.n_heads:
        raise ModelError(
            f"{where}: {config.n_heads} heads do not divide the width {config.dim}: get it anew"
        )
    return config


class Tensor(NamedTuple):
    """A tensor of a file that is read only when asked for."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


class Names(NamedTuple):
    """A module's name in a Hugging Face checkpoint and in a GGUF; `{}` is the layer."""

    safetensors: str
    gguf: str


LLAMA_NAMES = {
    "embedding": Names("embed_tokens", "token_embd"),
    "norm": Names("norm", "output_norm"),
    "untied_head": Names("lm_head", "output"),
    "layers.attention_norm": Names("layers.{}.input_layernorm", "blk.{}.attn_norm"),
    "layers.query": Names("layers.{}.self_attn.q_proj", "blk.{}.attn_q"),
    "layers.key": Names("layers.{}.self_attn.k_proj", "blk.{}.attn_k"),
    "layers.value": Names("layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
    "layers.output": Names("layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
    "layers.mlp_norm": Names("layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
    "layers.gate": Names("layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"),
    "layers.up": Names("layers.{}.mlp.up_proj", "blk.{}.ffn_up"),
    "layers.down": Names("layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
}
GPT2_NAMES = {
    "embedding": Names("wte", "token_embd"),
    "position": Names("wpe", "position_embd"),
    "norm": Names("ln_f", "output_norm"),
    "untied_head": Names("lm_head", "output"),
    "layers.attention_norm": Names("h.{}.ln_1", "blk.{}.attn_norm"),
    "layers.query_key_value": Names("h.{}.attn.c_attn", "blk.{}.attn_qkv"),
    "layers.output": Names("h.{}.attn.c_proj", "blk.{}.attn_output"),
    "layers.mlp_norm": Names("h.{}.ln_2", "blk.{}.ffn_norm"),
    "layers.up": Names("h.{}.mlp.c_fc", "blk.{}.ffn_up"),
    "layers.down": Names("h.{}.mlp.c_proj", "blk.{}.ffn_down"),
}


def assemble(
    config: LlamaConfig | GPT2Config,
    tensors: Mapping[str, Tensor],
    layout: str,
    dtype: DTypeLike,
    where: str,
) -> Llama | GPT2:
    """A model of `config` whose parameters are `tensors`.

    Args:
        config: sizes.
        tensors: all of a checkpoint's tensors, without those known to be no parameters.
        layout: "safetensors" or "gguf", whose names the tensors have.
        dtype: of the parameters.
        where: the file or folder, for messages.

    Raises:
        ModelError: a tensor is missing, superfluous or of a wrong shape.
    """
    is_llama = isinstance(config, LlamaConfig)
    names = LLAMA_NAMES if is_llama else GPT2_NAMES
    keeps_kernels = layout == "safetensors" and not is_llama  # GPT-2's Conv1D is (in, out)

    def build() -> Llama | GPT2:
        if isinstance(config, LlamaConfig):
            return Llama(config, dtype=dtype, rngs=nnx.Rngs(0))
        return GPT2(config, dtype=dtype, rngs=nnx.Rngs(0))

    graph, state = nnx.split(nnx.eval_shape(build))

    wanted: dict[tuple, list[str]] = {}
    for path, leaf in nnx.to_flat_state(state):
        *module, kind = path
        pattern = getattr(names[".".join(map(str, module))], layout)
        suffix = "bias" if kind == "bias" else "weight"
        is_kernel = kind == "kernel" and not keeps_kernels
        layers = range(config.n_layers) if module[0] == "layers" else [None]
        shape = leaf.shape[1:] if module[0] == "layers" else leaf.shape
        wanted[path] = [f"{pattern.format(layer)}.{suffix}" for layer in layers]
        for name in wanted[path]:
            expected = shape[::-1] if is_kernel else shape
            if name in tensors and tensors[name].shape != expected:
                raise ModelError(
                    f"{where}: tensor {name} has shape {tensors[name].shape}, its "
                    f"configuration asks for {expected}; use matching config and weights"
                )
    needed = {name for group in wanted.values() for name in group}
    for kind, rest in (("lacks", needed - set(tensors)), ("has unknown", set(tensors) - needed)):
        if rest:
            raise ModelError(
                f"{where} {kind} tensor {min(rest)} ({len(rest)} such): it is not the "
                f"{'Llama' if is_llama else 'GPT-2'} that its configuration describes; get it "
                "anew or mend the configuration"
            )

    def load(path: tuple) -> jax.Array:
        arrays = [np.asarray(tensors[name].read()) for name in wanted[path]]
        if path[-1] == "kernel" and not keeps_kernels:
            arrays = [a.T for a in arrays]
        value = np.stack(arrays) if path[0] == "layers" else arrays[0]
        return jnp.asarray(value, dtype)

    flat = {path: leaf.replace(load(path)) for path, leaf in nnx.to_flat_state(state)}
    return nnx.merge(graph, nnx.from_flat_state(flat))
