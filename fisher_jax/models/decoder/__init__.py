"""What all model families are made of: a stack of equal layers under one scan, attention, rotary
positions, and one module for all families that rotate. How they are computed may change; the
logits stay.
"""

from fisher_jax.models.decoder.attention import causal_attention, packed_rows, whole_rows
from fisher_jax.models.decoder.base import Decoder, Sizes
from fisher_jax.models.decoder.linear import capped, project
from fisher_jax.models.decoder.rope import Llama3Scaling, LongScaling, Rope, YarnScaling
from fisher_jax.models.decoder.rotary import RotaryConfig, RotaryDecoder
from fisher_jax.models.decoder.stack import stack

__all__ = [
    "Decoder",
    "Llama3Scaling",
    "LongScaling",
    "Rope",
    "RotaryConfig",
    "RotaryDecoder",
    "Sizes",
    "YarnScaling",
    "capped",
    "causal_attention",
    "packed_rows",
    "project",
    "stack",
    "whole_rows",
]
