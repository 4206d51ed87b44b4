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

COLUMNS = 64  # a prefix has a multiple of this many, so that contexts of similar length share compiled code
AXES = ("batch", "kv_heads", "length", "head_dim")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """The keys and values of what each row has read, without gaps: row b's tokens are in columns 0 .. lengths[b] - 1.

    There is a buffer for each layer, so that a loop which carries them writes one token and moves nothing else. In an
    ensemble every row is read after each of G contexts, and the buffers have a leading axis of contexts.
    """

    k: tuple[Float[Array, "*G B K S H"], ...]
    v: tuple[Float[Array, "*G B K S H"], ...]
    lengths: Int[Array, "B"]

    def visible(self, queries: int, window: int | None) -> Bool[Array, "B T S"]:
        """Mask of the columns that the next `queries` tokens of each row may see: earlier ones and the token itself."""
        columns = self.lengths[:, None, None] + jnp.arange(queries)[None, :, None]
        distance = columns - jnp.arange(self.k[0].shape[2])[None, None]
        return distance >= 0 if window is None else (distance >= 0) & (distance < window)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prefix:
    """The keys and values of G contexts, each at positions 0 .. lengths[g] - 1: stored once, not repeated for rows.

    A batch that reads them is grouped by context: its first B / G rows read the first context, and so on.
    """

    k: Float[Array, "L G K P H"]
    v: Float[Array, "L G K P H"]
    lengths: Int[Array, "G"]

    def starts(self, rows: int) -> Int[Array, "B"]:
        """The position of each row's first token after its context."""
        return jnp.repeat(self.lengths, rows // len(self.lengths), total_repeat_length=rows)

    def visible(self, positions: Int[Array, "B T"], window: int | None) -> Bool[Array, "G P"] | Bool[Array, "B T P"]:
        """Mask of the context's columns that tokens at these positions see: all, or those in the sliding window.

        [G, P] where every query sees the whole context; [B, T, P] with a window, which moves with the query.
        """
        columns = jnp.arange(self.k.shape[3])
        if window is None:
            return columns[None] < self.lengths[:, None]
        real = (columns[None] < self.starts(len(positions))[:, None])[:, None]
        return real & (positions[..., None] - columns[None, None] < window)

    def then(self, other: "Prefix") -> "Prefix":
        """The contexts, each followed by one of `other`, index by index; a single context is paired with each of many.

        The keys of `other` must be those of the positions that follow this prefix.
        """
        contexts = max(len(self.lengths), len(other.lengths))

        def join(old: Array, new: Array) -> Array:
            old, new = (jnp.broadcast_to(x, (len(x), contexts, *x.shape[2:])) for x in (old, new.astype(old.dtype)))
            # The new columns start at the context's length, not at the end of its padding.
            wide = jnp.pad(old, ((0, 0), (0, 0), (0, 0), (0, new.shape[3]), (0, 0)))
            put = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=2)
            return jax.vmap(put, in_axes=(1, 1, 0), out_axes=1)(wide, new, jnp.broadcast_to(self.lengths, (contexts,)))

        return Prefix(join(self.k, other.k), join(self.v, other.v), self.lengths + other.lengths)

    def moved(self, start: Int[Array, "G"], spec: DecoderSpec) -> "Prefix":
        """The prefix with its keys rotated by `start` positions, as if its contexts began there."""
        contexts = max(len(self.lengths), len(start))
        keys = jnp.broadcast_to(self.k, (len(self.k), contexts, *self.k.shape[2:]))
        by_context = jnp.broadcast_to(start, (contexts,))[:, None] + jnp.zeros((1, keys.shape[2]), jnp.int32)
        turned = jax.vmap(lambda k: rope(k, by_context, spec))(keys)
        values = jnp.broadcast_to(self.v, keys.shape)
        return Prefix(turned, values, jnp.broadcast_to(self.lengths, (contexts,)))

    def whole(self) -> "Prefix":
        """The prefix, replicated but for its heads: any row may read any context."""
        k, v = (parallel.constrain(x, "layers", "length", "kv_heads", "length", "head_dim") for x in (self.k, self.v))
        return Prefix(k, v, self.lengths)


def new_cache(spec: DecoderSpec, batch: int, columns: int, dtype: jnp.dtype, contexts: int = 1) -> Cache:
    """An empty cache of at least `columns` columns, created sharded under jit; with `contexts` > 1 an ensemble's."""
    if columns > attention.BLOCK:
        columns = -(-columns // attention.BLOCK) * attention.BLOCK

    # A buffer for each layer, not one array many times: a donated array may appear only once.
    def zeros() -> tuple[jax.Array, ...]:
        leading = (contexts,) if contexts > 1 else ()
        shape, axes = (*leading, batch, spec.kv_heads, columns, spec.head_dim), ("length",) * len(leading) + AXES
        return tuple(parallel.constrain(jnp.zeros(shape, dtype), *axes) for _ in range(spec.layers))

    return Cache(zeros(), zeros(), parallel.constrain(jnp.zeros(batch, jnp.int32), "batch"))


def write(
    rows: Float[Array, "B K S H"], new: Float[Array, "B K T H"], columns: Int[Array, "B"]
) -> Float[Array, "B K S H"]:
    """The rows with new tokens written into each row from its column on."""

    def slices(rows: Array, new: Array, columns: Array) -> Array:
        update = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=1)
        return jax.vmap(update)(rows, new, start_index=columns)

    def select(rows: Array, new: Array, columns: Array) -> Array:
        selected = jnp.arange(rows.shape[2])[None] == columns[:, None]
        return jnp.where(selected[:, None, :, None], jnp.broadcast_to(new, rows.shape), rows)

    # A TPU writes slices at different columns one after the other: a single token is selected over all columns there.
    on_tpu = select if new.shape[2] == 1 else slices
    written = jax.lax.platform_dependent(rows, new.astype(rows.dtype), columns, tpu=on_tpu, default=slices)
    return parallel.constrain(written, *AXES)
