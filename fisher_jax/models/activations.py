"""The memory that a forward pass takes, estimated from a model's sizes."""

from fisher_jax.models.decoder import Sizes
from fisher_jax.models.decoder.attention import LONG_QUERIES


def activation_bytes(config: Sizes, length: int) -> float:
    """Bytes a token of rows of so many tokens, in float32: a layer at work, and its attention.

    A layer holds its input, queries, keys, values and sums, and three arrays inside its MLP; its
    attention a number for each head and each position that one block of queries sees, three times.
    """
    attention = 3 * config.n_heads * min(length, LONG_QUERIES)
    return 4.0 * (8 * config.dim + 3 * config.mlp_dim + attention)
