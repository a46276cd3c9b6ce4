"""A pool as the compiled loops read it, on one device or divided over a mesh."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Num

from fisher_jax.buckets import ladder
from fisher_jax.candidates import Batch, batches
from fisher_jax.design import TokenEmbeddings
from fisher_jax.platforms import here


class Shapes(NamedTuple):
    """What is static in the compiled programs: batches of candidates, lengths of a chosen row."""

    batches: tuple[Batch, ...]
    lengths: tuple[int, ...]
    mesh: Mesh | None = None

    @property
    def blocks(self) -> int:
        """Block columns of the root."""
        return self.batches[0].blocks


class Pool(NamedTuple):
    """Examples sorted by length; `original` is their place in the pool that was given.

    A choice spends `cost` of the budget; the largest gain divided by `per` is chosen. On a mesh the
    devices' parts, of equal size, stand one after the other, and `start` counts within a part.
    """

    tokens: Float[Array, "T D"]
    start: Int[Array, "N"]
    length: Int[Array, "N"]
    original: Int[Array, "N"]
    cost: Num[Array, "N"]
    per: Float[Array, "N"]


def make_pool(
    emb: TokenEmbeddings, costs: np.ndarray, per: np.ndarray, mesh: Mesh | None = None
) -> tuple[Pool, Shapes]:
    """The pool on its devices and its shapes; examples longer than D become D rows."""
    emb = emb.at_most_dim_rows()
    order = np.argsort(emb.lengths, kind="stable")
    pool = Pool(
        tokens=emb.tokens,
        start=emb.offsets[:-1][order].astype(np.int32),
        length=emb.lengths[order].astype(np.int32),
        original=order.astype(np.int32),
        cost=costs[order],
        per=per[order].astype(emb.tokens.dtype),
    )
    steps = tuple(int(length) for length in ladder(emb.lengths, here().update_lengths))
    if mesh is None:
        return jax.tree.map(jnp.asarray, pool), Shapes(batches(pool.length, emb.dim), steps)
    pool = _divided(pool, mesh.size)
    longest = pool.length.reshape(mesh.size, -1).max(axis=0)
    place = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
    return jax.device_put(pool, place), Shapes(batches(longest, emb.dim), steps, mesh)


def _divided(pool: Pool, n_parts: int) -> Pool:
    """Equal parts, one after the other, to which examples are dealt by length.

    What a part lacks to the size of the others are examples of one token, zeros, that no budget
    pays for; they come first.
    """
    n = -(-len(pool.start) // n_parts)
    size = 1 + max(int(pool.length[k::n_parts].sum()) for k in range(n_parts))
    never = np.iinfo(pool.cost.dtype).max if pool.cost.dtype.kind == "i" else np.inf
    parts = []
    for k in range(n_parts):
        _, start, length, original, cost, per = (np.asarray(x)[k::n_parts] for x in pool)
        own = np.cumsum(length, dtype=np.int32) - length
        tokens = np.zeros((size, pool.tokens.shape[1]), pool.tokens.dtype)
        tokens[: length.sum()] = pool.tokens[
            np.repeat(start - own, length) + np.arange(length.sum())
        ]

        def filled(x: np.ndarray, value: float) -> np.ndarray:
            return np.pad(x, (n - len(x), 0), constant_values=value)

        last = np.iinfo(np.int32).max
        parts.append(
            Pool(
                tokens,
                filled(own, size - 1),
                filled(length, 1),
                filled(original, last),
                filled(cost, never),
                filled(per, 1),
            )
        )
    return Pool(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def is_open(pool: Pool, taken: Bool[Array, "N"], remaining: Num[Array, ""]) -> Bool[Array, "N"]:
    """Examples that are not chosen yet and that the rest of the budget pays for."""
    return ~taken & (pool.cost <= remaining)


def padded_rows(pool: Pool, positions: Int[Array, "B"], length: int) -> Float[Array, "B M D"]:
    """The embeddings of some examples, padded with rows of zeros to `length`."""
    offset = jnp.arange(length)[None]
    rows = pool.start[positions][:, None] + offset
    x_BxMxD = pool.tokens.at[rows].get(mode="clip")
    return jnp.where((offset < pool.length[positions][:, None])[..., None], x_BxMxD, 0)
