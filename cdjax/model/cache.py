"""Keys and values that outlive one call: the rows' own cache, and the prefix that all rows share."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cdjax import parallel
from cdjax.model.spec import DecoderSpec


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """What each row has read so far. Columns are the same for all rows, because prompts are left-padded."""

    k: Float[Array, "L B S K H"]
    v: Float[Array, "L B S K H"]
    positions: Int[Array, "B S"]
    real: Bool[Array, "B S"]  # False for padding and for columns not yet written
    column: Int[Array, ""]  # where the next token goes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prefix:
    """The context's keys and values, at positions 0 .. P-1: stored once, attended to by every row."""

    k: Float[Array, "L P K H"]
    v: Float[Array, "L P K H"]

    @property
    def length(self) -> int:
        return self.k.shape[1]


def new_cache(spec: DecoderSpec, batch: int, slots: int, dtype: jnp.dtype) -> Cache:
    """An empty cache of `slots` columns, born sharded when called under jit."""
    shape = (spec.layers, batch, slots, spec.kv_heads, spec.head_dim)

    def zeros() -> jax.Array:
        return parallel.constrain(jnp.zeros(shape, dtype), "layers", "batch", "length", "kv_heads", "head_dim")

    def row(kind: type) -> jax.Array:
        return parallel.constrain(jnp.zeros((batch, slots), kind), "batch", "length")

    # Two buffers, not one twice: a donated array may appear only once.
    return Cache(zeros(), zeros(), row(jnp.int32), row(jnp.bool_), jnp.int32(0))
