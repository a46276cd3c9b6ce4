"""Rotary positions, and the ways to stretch them to longer rows than a model was trained on."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class Llama3Scaling(NamedTuple):
    """Llama 3.1's stretching of the slow rotary frequencies."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


class YarnScaling(NamedTuple):
    """YaRN: slow frequencies are stretched, fast ones kept, a ramp between (arXiv 2309.00071)."""

    factor: float
    original_context: int
    amplitude: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


class LongScaling(NamedTuple):
    """LongRoPE: a divisor for each frequency (arXiv 2402.13753).

    `short` divides for rows up to the original context, `long` for longer ones. Longer rows are
    not supported where the two differ.
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    original_context: int
    amplitude: float = 1.0


class Rope(NamedTuple):
    """Rotation by `position theta^(-2i/E)`. `scaling`: a factor on positions, or a rule.

    `share`: part of a head's coordinates that is rotated, the first ones.
    """

    theta: float = 10000.0
    scaling: float | Llama3Scaling | YarnScaling | LongScaling = 1.0
    share: float = 1.0

    @property
    def amplitude(self) -> float:
        """Factor on what is rotated."""
        return getattr(self.scaling, "amplitude", 1.0)

    def width(self, head_dim: int) -> int:
        """Coordinates of a head that are rotated."""
        return int(head_dim * self.share)

    def problem(self, head_dim: int) -> str | None:
        """What is wrong with it for heads of that width, or None."""
        numbers = [self.theta, self.share]
        for value in self.scaling if isinstance(self.scaling, tuple) else [self.scaling]:
            numbers += value if isinstance(value, tuple) else [value]
        if not all(isinstance(x, (int, float)) and 0 <= x < 1e30 for x in numbers):
            return "a number of its rotary positions is none, negative or too large"
        width = self.width(head_dim)
        if self.theta <= 1 or not 0 < self.share <= 1 or width % 2 or not width:
            return f"positions can't rotate {width} of {head_dim} coordinates by {self.theta:g}"
        if isinstance(self.scaling, LongScaling):
            lengths = {len(self.scaling.short), len(self.scaling.long)}
            if lengths != {width // 2}:
                return f"RoPE has {max(lengths)} factors for {width // 2} pairs of coordinates"
        return None


class Turn(NamedTuple):
    """What a layer needs to know: angle a position of each pair, and the factor on the rotated."""

    frequency_F: Float[Array, "*N F"]
    amplitude: Float[Array, "N"] | float


def turn_of(rope: Rope | None, head_dim: int, width: int) -> Turn:
    """Of one rope, or of none: nothing is turned."""
    if rope is None:
        return Turn(jnp.zeros(width // 2), 1.0)
    return Turn(frequencies(rope, rope.width(head_dim)), rope.amplitude)


def frequencies(rope: Rope, width: int) -> Float[Array, "F"]:
    """Rotary angle per position of each pair of coordinates, `theta^(-2i/E)` and scaled."""
    pair = jnp.arange(0, width, 2, dtype=jnp.float32) / width
    frequency = rope.theta**-pair
    scaling = rope.scaling
    if isinstance(scaling, LongScaling):
        return frequency / jnp.asarray(scaling.short, jnp.float32)
    if isinstance(scaling, YarnScaling):
        keep = jnp.asarray(1 - _ramp(rope.theta, scaling, width), jnp.float32)
        return frequency * (keep + (1 - keep) / scaling.factor)
    if not isinstance(scaling, Llama3Scaling):
        return frequency / scaling
    turns = scaling.original_context * frequency / (2 * jnp.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep = jnp.clip((turns - low) / (high - low), 0, 1)
    return frequency * (keep + (1 - keep) / scaling.factor)


def _ramp(theta: float, scaling: YarnScaling, width: int) -> np.ndarray:
    """0 for pairs that turn more than `beta_fast` times in the original context, 1 for slow."""

    def pair_of(turns: float) -> float:
        length = scaling.original_context / (turns * 2 * math.pi)
        return width * math.log(length) / (2 * math.log(theta))

    first, last = pair_of(scaling.beta_fast), pair_of(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    last = last + 0.001 if first == last else last
    return np.clip((np.arange(width // 2) - first) / (last - first), 0, 1)


def rotate(
    x_BxTxHxE: Float[Array, "B T H E"], positions_BxT: Int[Array, "#B T"], turn: Turn
) -> Float[Array, "B T H E"]:
    """Rotary position embedding, first half of the turned coordinates against the second."""
    angle_BxTxF = positions_BxT[:, :, None].astype(jnp.float32) * turn.frequency_F[None, None]
    cos = jnp.cos(angle_BxTxF)[:, :, None] * turn.amplitude
    sin = jnp.sin(angle_BxTxF)[:, :, None] * turn.amplitude
    width = 2 * turn.frequency_F.shape[-1]
    turned, rest = x_BxTxHxE[..., :width], x_BxTxHxE[..., width:]
    a, b = jnp.split(turned.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return jnp.concatenate([rotated.astype(x_BxTxHxE.dtype), rest], axis=-1)
