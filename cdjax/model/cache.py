"""Keys and values that outlive one call: each row's own, and those of the contexts that rows share."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cdjax import parallel
from cdjax.model import attention
from cdjax.model.layers import rope
from cdjax.model.spec import DecoderSpec

COLUMNS = 64  # a prefix has a multiple of so many, so that contexts of like length share what is compiled
AXES = ("batch", "kv_heads", "length", "head_dim")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """What each row has read so far, without gaps: row b's tokens lie in its columns 0 .. lengths[b] - 1.

    A buffer for each layer, so that a loop which carries them writes one token and moves nothing else. Where rows are
    read after several contexts, each, the buffers of all contexts lie one above the other.
    """

    k: tuple[Float[Array, "*G B K S H"], ...]
    v: tuple[Float[Array, "*G B K S H"], ...]
    lengths: Int[Array, "B"]

    def visible(self, queries: int, window: int | None) -> Bool[Array, "B T S"]:
        """Which columns the next `queries` tokens of each row may see: those before each, and its own."""
        own = self.lengths[:, None, None] + jnp.arange(queries)[None, :, None]
        distance = own - jnp.arange(self.k[0].shape[2])[None, None]
        return distance >= 0 if window is None else (distance >= 0) & (distance < window)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prefix:
    """The keys and values of G contexts, each at positions 0 .. lengths[g] - 1: stored once, never repeated for a row.

    A batch that reads them is grouped by context: its first B / G rows read the first, and so on.
    """

    k: Float[Array, "L G K P H"]
    v: Float[Array, "L G K P H"]
    lengths: Int[Array, "G"]

    def starts(self, rows: int) -> Int[Array, "B"]:
        """The position of each row's own first token."""
        return jnp.repeat(self.lengths, rows // len(self.lengths), total_repeat_length=rows)

    def visible(self, positions: Int[Array, "B T"], window: int | None) -> Bool[Array, "G P"] | Bool[Array, "B T P"]:
        """Which columns a row's own tokens see: the whole context, unless a sliding window leaves it behind."""
        columns = jnp.arange(self.k.shape[3])
        if window is None:
            return columns[None] < self.lengths[:, None]
        real = (columns[None] < self.starts(len(positions))[:, None])[:, None]
        return real & (positions[..., None] - columns[None, None] < window)

    def then(self, other: "Prefix") -> "Prefix":
        """These contexts, each with one of `other` in the columns after it; a single context goes with each of many.

        The other's keys are those of the positions that follow this prefix.
        """
        contexts = max(len(self.lengths), len(other.lengths))

        def join(old: Array, new: Array) -> Array:
            old, new = (jnp.broadcast_to(x, (len(x), contexts, *x.shape[2:])) for x in (old, new.astype(old.dtype)))
            wide = jnp.pad(old, ((0, 0), (0, 0), (0, 0), (0, new.shape[3]), (0, 0)))
            put = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=2)
            return jax.vmap(put, in_axes=(1, 1, 0), out_axes=1)(wide, new, jnp.broadcast_to(self.lengths, (contexts,)))

        return Prefix(join(self.k, other.k), join(self.v, other.v), self.lengths + other.lengths)

    def moved(self, start: Int[Array, "G"], spec: DecoderSpec) -> "Prefix":
        """The same contexts with the keys that they would have `start` positions later."""
        contexts = max(len(self.lengths), len(start))
        keys = jnp.broadcast_to(self.k, (len(self.k), contexts, *self.k.shape[2:]))
        by_context = jnp.broadcast_to(start, (contexts,))[:, None] + jnp.zeros((1, keys.shape[2]), jnp.int32)
        turned = jax.vmap(lambda k: rope(k, by_context, spec))(keys)
        values = jnp.broadcast_to(self.v, keys.shape)
        return Prefix(turned, values, jnp.broadcast_to(self.lengths, (contexts,)))

    def whole(self) -> "Prefix":
        """The same on every device that has its heads: any row may read any context."""
        k, v = (parallel.constrain(x, "layers", "length", "kv_heads", "length", "head_dim") for x in (self.k, self.v))
        return Prefix(k, v, self.lengths)


def new_cache(spec: DecoderSpec, batch: int, slots: int, dtype: jnp.dtype, contexts: int = 1) -> Cache:
    """An empty cache of at least `slots` columns, born sharded when called under jit; of several contexts, if asked."""
    if slots > attention.BLOCK:
        slots = -(-slots // attention.BLOCK) * attention.BLOCK

    # A buffer each, not one many times: a donated array may appear only once.
    def zeros() -> tuple[jax.Array, ...]:
        above = (contexts,) if contexts > 1 else ()
        shape, axes = (*above, batch, spec.kv_heads, slots, spec.head_dim), ("length",) * len(above) + AXES
        return tuple(parallel.constrain(jnp.zeros(shape, dtype), *axes) for _ in range(spec.layers))

    return Cache(zeros(), zeros(), parallel.constrain(jnp.zeros(batch, jnp.int32), "batch"))


def write(
    rows: Float[Array, "B K S H"], new: Float[Array, "B K T H"], columns: Int[Array, "B"]
) -> Float[Array, "B K S H"]:
    """Each row's new tokens from its own column on."""

    def slices(rows: Array, new: Array, columns: Array) -> Array:
        one = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=1)
        return jax.vmap(one)(rows, new, start_index=columns)

    def select(rows: Array, new: Array, columns: Array) -> Array:
        here = jnp.arange(rows.shape[2])[None] == columns[:, None]
        return jnp.where(here[:, None, :, None], jnp.broadcast_to(new, rows.shape), rows)

    # A TPU writes slices at columns of their own one after another: there, all columns are passed over.
    on_tpu = select if new.shape[2] == 1 else slices
    written = jax.lax.platform_dependent(rows, new.astype(rows.dtype), columns, tpu=on_tpu, default=slices)
    return parallel.constrain(written, *AXES)
