"""A pool as the compiled loops read it, on one device or divided over a mesh."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Num
from numpy.typing import DTypeLike

from fisher_jax.design.buckets import ladder, worth
from fisher_jax.design.budget import Budget
from fisher_jax.design.candidates import Batch, batches
from fisher_jax.design.embeddings import TokenEmbeddings, TokenSource, part_of, pieces
from fisher_jax.util.platforms import check_fits, here


class Shapes(NamedTuple):
    """What is static in the compiled programs: batches of candidates, lengths of a chosen row."""

    batches: tuple[Batch, ...]
    lengths: tuple[int, ...]
    mesh: Mesh | None = None

    @property
    def blocks(self) -> int:
        """Block columns of the root."""
        return self.batches[0].blocks


class DevicePool(NamedTuple):
    """Examples sorted by length; `original` is their place in the pool that was given.

    A choice spends `cost` of the budget and of its group's room; the largest `key` is chosen: the
    gain and `bonus` divided by `per`. On a mesh the devices' parts, of equal size, stand one after
    the other, and `start` counts within a part.
    """

    tokens: Float[Array, "T D"]
    start: Int[Array, "N"]
    length: Int[Array, "N"]
    original: Int[Array, "N"]
    cost: Num[Array, "N"]
    per: Float[Array, "N"]
    bonus: Float[Array, "N"]
    group: Int[Array, "N"]


class Room(NamedTuple):
    """What is left of a budget, and of it for each group."""

    all: Num[Array, ""]
    groups: Num[Array, "G"]


def make_pool(
    emb: TokenSource,
    budget: Budget | None = None,
    per: np.ndarray | None = None,
    bonus: np.ndarray | None = None,
    mesh: Mesh | None = None,
    dtype: DTypeLike | None = None,
    kept: DTypeLike | None = None,
) -> tuple[DevicePool, Shapes]:
    """The pool on its devices and its shapes; examples longer than D become D rows.

    Every example costs 1, gains are divided by 1 and nothing is added to them unless told
    otherwise. All is computed in `dtype`, by default the embeddings'; `kept`, by default the same,
    is that of the tokens on the device. On a mesh each process reads what its own devices hold.

    Raises:
        ValueError: the device can't hold them.
    """
    dtype = np.dtype(emb.dtype if dtype is None else dtype)
    kept = dtype if kept is None else np.dtype(kept)
    check_fits(emb.lengths, emb.dim, kept.itemsize, 1 if mesh is None else mesh.size)
    budget = Budget(np.ones(len(emb)), len(emb), True) if budget is None else budget
    per = np.ones(len(emb)) if per is None else per
    bonus = np.zeros(len(emb)) if bonus is None else bonus
    lengths = np.minimum(emb.lengths, emb.dim)
    order = np.argsort(lengths, kind="stable")
    lengths = lengths[order]
    columns = (
        lengths.astype(np.int32),
        order.astype(np.int32),
        budget.units[0][order],
        per[order].astype(dtype),
        bonus[order].astype(dtype),
        budget.rooms[0][order],
    )
    n_steps = worth(int(lengths.sum()) * emb.dim, here().update_lengths)
    steps = tuple(int(length) for length in ladder(lengths, n_steps))
    if mesh is None:
        whole = emb if isinstance(emb, TokenEmbeddings) else part_of(emb, np.arange(len(emb)))
        short = whole.as_dtype(dtype).at_most_dim_rows()
        start = short.offsets[:-1][order].astype(np.int32)
        columns = (short.tokens.astype(kept, copy=False), start, *columns)
        pool = DevicePool._make(jax.device_put(x, may_alias=True) for x in columns)
        return pool, Shapes(batches(lengths, emb.dim), steps)
    size = 1 + max(int(lengths[k :: mesh.size].sum()) for k in range(mesh.size))
    columns = _divided(*columns, size, mesh.size)
    longest = columns[1].reshape(mesh.size, -1).max(axis=0)
    place = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))

    def tokens_of(part: int) -> np.ndarray:
        part_TxD, at = np.zeros((size, emb.dim), kept), 0
        for some in pieces(emb, order[part :: mesh.size]):
            short = part_of(emb, some).as_dtype(dtype).at_most_dim_rows().tokens
            part_TxD[at : at + len(short)] = short
            at += len(short)
        return part_TxD

    shape = (mesh.size * size, emb.dim)
    own = place.addressable_devices_indices_map(shape).items()
    parts = [  # one at a time is in the host's memory
        jax.device_put(tokens_of((rows.start or 0) // size), device).block_until_ready()
        for device, (rows, _) in own  # pyright: ignore
    ]
    tokens = jax.make_array_from_single_device_arrays(shape, place, parts)
    others = (jax.make_array_from_callback(x.shape, place, x.__getitem__) for x in columns)
    return DevicePool(tokens, *others), Shapes(batches(longest, emb.dim), steps, mesh)


def _divided(
    length: np.ndarray,
    original: np.ndarray,
    cost: np.ndarray,
    per: np.ndarray,
    bonus: np.ndarray,
    group: np.ndarray,
    size: int,
    n_parts: int,
) -> tuple[np.ndarray, ...]:
    """A pool's columns, from `start` on, in equal parts of `size` tokens one after the other.

    Examples are dealt by length. What a part lacks to the number of the others are examples of one
    token, the zeros at its end, that no budget pays for; they come first.
    """
    n = -(-len(length) // n_parts)
    never = np.iinfo(cost.dtype).max if cost.dtype.kind == "i" else np.inf
    last = np.iinfo(np.int32).max
    parts = []
    for k in range(n_parts):
        mine = slice(k, None, n_parts)
        start = np.cumsum(length[mine], dtype=np.int32) - length[mine]
        columns = [(start, size - 1), (length[mine], 1), (original[mine], last)]
        columns += [(cost[mine], never), (per[mine], 1), (bonus[mine], 0), (group[mine], 0)]
        short = n - len(start)
        parts.append([np.pad(x, (short, 0), constant_values=v) for x, v in columns])
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def first_room(budget: Budget) -> Room:
    """All of a budget."""
    costs, total = budget.units
    return Room(jnp.asarray(total, costs.dtype), jnp.asarray(budget.rooms[1], costs.dtype))


def is_open(pool: DevicePool, taken: Bool[Array, "N"], room: Room) -> Bool[Array, "N"]:
    """Examples that are not chosen yet and that the rest of the budget pays for."""
    return ~taken & (pool.cost <= room.all) & (pool.cost <= room.groups[pool.group])


def spend(room: Room, cost: Num[Array, ""], group: Int[Array, ""]) -> Room:
    """What is left after an example of a group."""
    return Room(room.all - cost, room.groups.at[group].add(-cost))


def keys(pool: DevicePool, gains: Float[Array, "N"]) -> Float[Array, "N"]:
    """What a choice maximises. It falls as gains do, so that of an old gain it is a bound."""
    return (gains + pool.bonus) / pool.per


def padded_rows(pool: DevicePool, positions: Int[Array, "B"], length: int) -> Float[Array, "B M D"]:
    """The embeddings of some examples, padded with rows of zeros to `length`."""
    offset = jnp.arange(length)[None]
    rows = pool.start[positions][:, None] + offset
    x_BxMxD = pool.tokens.at[rows].get(mode="clip").astype(pool.per.dtype)
    return jnp.where((offset < pool.length[positions][:, None])[..., None], x_BxMxD, 0)
