"""Rotary positions as config.json and the metadata of a GGUF describe them."""

import math
from typing import Any

from fisher_jax.models.decoder import Llama3Scaling, LongScaling, Rope, YarnScaling
from fisher_jax.models.errors import ModelError
from fisher_jax.models.families.family import JsonFields, Metadata


def rope_from_json(
    fields: JsonFields,
    theta: float | None = None,
    rope: dict[str, Any] | None = None,
    is_partial: bool = False,
) -> Rope:
    """The rope that `rope_scaling` and `rope_parameters` of config.json describe, or `rope`.

    `is_partial`: the family may rotate a part of each head only.

    Raises:
        ModelError: a rule that is not supported.
    """
    raw = fields.raw
    if rope is None:
        rope = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
    theta = float(rope.get("rope_theta") or theta or 10000.0)
    share = rope.get("partial_rotary_factor") or raw.get("partial_rotary_factor") or 1.0
    if share != 1 and not is_partial:
        raise ModelError(f"{fields.path}: rotary embeddings on part of a head are not supported")
    kind = rope.get("rope_type") or rope.get("type") or "default"
    context = raw.get("max_position_embeddings", 2048)
    original = rope.get("original_max_position_embeddings") or raw.get(
        "original_max_position_embeddings"
    )
    if kind == "default":
        return Rope(theta, 1.0, share)
    if kind == "linear":
        return Rope(theta, float(rope["factor"]), share)
    if kind == "llama3":
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        original = rope["original_max_position_embeddings"]
        return Rope(theta, Llama3Scaling(rope["factor"], low, high, original), share)
    original = original or context
    factor = rope.get("factor") or context / original
    amplitude = rope.get("attention_factor")
    if kind == "yarn":
        if amplitude is None:
            amplitude = yarn_amplitude(factor)
            if (over := rope.get("mscale")) and (under := rope.get("mscale_all_dim")):
                amplitude = yarn_amplitude(factor, over) / yarn_amplitude(factor, under)
        fast, slow = rope.get("beta_fast") or 32.0, rope.get("beta_slow") or 1.0
        cut = rope.get("truncate", True)
        return Rope(theta, YarnScaling(factor, original, amplitude, fast, slow, cut), share)
    if kind in ("longrope", "su"):
        if amplitude is None:
            amplitude = long_amplitude(factor, original)
        short, long = (tuple(map(float, rope[f"{n}_factor"])) for n in ("short", "long"))
        return Rope(theta, LongScaling(short, long, original, amplitude), share)
    raise ModelError(
        f"{fields.path}: RoPE scaling {kind!r} is not supported; default, linear, llama3, yarn and "
        "longrope are"
    )


def yarn_amplitude(factor: float, weight: float = 1.0) -> float:
    """`0.1 weight log(factor) + 1`, YaRN's factor on what is rotated."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def long_amplitude(factor: float, original_context: int) -> float:
    """`sqrt(1 + log(factor) / log(original context))`, LongRoPE's factor on what is rotated."""
    return math.sqrt(1 + math.log(factor) / math.log(original_context)) if factor > 1 else 1.0


def rope_to_json(rope: Rope) -> dict[str, Any]:
    """A rope as `rope_parameters` of config.json."""
    scaling, base = rope.scaling, {"rope_theta": rope.theta}
    if rope.share != 1:
        base["partial_rotary_factor"] = rope.share
    if isinstance(scaling, Llama3Scaling):
        return base | {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context,
        }
    if isinstance(scaling, YarnScaling):
        return base | {
            "rope_type": "yarn",
            "factor": scaling.factor,
            "original_max_position_embeddings": scaling.original_context,
            "attention_factor": scaling.amplitude,
            "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
            "truncate": scaling.truncate,
        }
    if isinstance(scaling, LongScaling):
        return base | {
            "rope_type": "longrope",
            "short_factor": list(scaling.short),
            "long_factor": list(scaling.long),
            "original_max_position_embeddings": scaling.original_context,
            "attention_factor": scaling.amplitude,
        }
    if scaling == 1:
        return base | {"rope_type": "default"}
    return base | {"rope_type": "linear", "factor": scaling}


def rope_from_gguf(
    file: Metadata, head_dim: int, is_partial: bool = False, theta: float = 10000.0
) -> Rope:
    """The rope of a GGUF's metadata and tensors, as llama.cpp reads them; see `rope_from_json`.

    Raises:
        ModelError: a rule that is not supported.
    """
    theta = file.field("{arch}.rope.freq_base", theta)
    turned = file.field("{arch}.rope.dimension_count", head_dim)
    share = 1.0 if turned == head_dim else turned / head_dim
    if share != 1 and not is_partial:
        raise ModelError(f"{file.path}: rotary embeddings on part of a head are not supported")
    original = file.field("{arch}.rope.scaling.original_context_length", None)
    context = file.field("{arch}.context_length")
    if "rope_freqs.weight" in file.shapes:  # Llama 3's rule, written out
        factors = file.numbers("rope_freqs.weight")
        return Rope(theta, LongScaling(factors, factors, original or context), share)
    if "rope_factors_short.weight" in file.shapes:
        short, long = (file.numbers(f"rope_factors_{n}.weight") for n in ("short", "long"))
        original = original or context
        amplitude = file.field("{arch}.rope.scaling.attn_factor", None)
        if amplitude is None:
            amplitude = long_amplitude(context / original, original)
        return Rope(theta, LongScaling(short, long, original, amplitude), share)
    kind = file.field("{arch}.rope.scaling.type", "linear")  # llama.cpp's default
    factor = file.field("{arch}.rope.scaling.factor", 1.0) or 1.0
    if kind == "none":
        return Rope(theta, 1.0, share)
    if kind == "linear":
        return Rope(theta, factor, share)
    if kind == "yarn":
        fast = file.field("{arch}.rope.scaling.yarn_beta_fast", 32.0)
        slow = file.field("{arch}.rope.scaling.yarn_beta_slow", 1.0)
        amplitude = yarn_amplitude(factor) * file.field("{arch}.rope.scaling.attn_factor", 1.0)
        return Rope(theta, YarnScaling(factor, original or context, amplitude, fast, slow), share)
    raise ModelError(
        f"{file.path}: RoPE scaling {kind!r} of a GGUF is not supported; none, linear, yarn and "
        "written-out factors are"
    )
