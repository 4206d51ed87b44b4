"""A decoder and what stands before all that it reads: contexts that have been read once, for every row.

In: the ids of contexts. Out: a `Reader` that has read them. The caller has entered `jax.set_mesh`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from cdjax.model import cache
from cdjax.model.decoder import Decoder, row_positions


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reader:
    """A decoder, and the keys and values that stand before whatever it reads."""

    decoder: Decoder
    prefix: cache.Prefix | None = None

    def after(self, *contexts: Int[np.ndarray, "_"]) -> "Reader":
        """The reader of one context, or of several apart, each after what stands there; itself where none has a token.

        Their keys and values are computed once, and padded to one of few widths. What already stands there is one
        context, or as many as there are new ones.
        """
        lengths = np.array([len(context) for context in contexts], np.int32)
        if not lengths.any():
            return self
        padded = np.zeros((len(contexts), -(-lengths.max() // cache.COLUMNS) * cache.COLUMNS), np.int32)
        for row, context in zip(padded, contexts, strict=True):
            row[: len(context)] = context
        return dataclasses.replace(self, prefix=_read(self, padded, lengths))


@jax.jit
def _read(reader: Reader, contexts: Int[Array, "G P"], lengths: Int[Array, "G"]) -> cache.Prefix:
    real = jnp.arange(contexts.shape[1])[None] < lengths[:, None]
    positions = row_positions(real, reader.prefix)
    k, v = reader.decoder.read(contexts, positions, real, prefix=reader.prefix)
    found = cache.Prefix(k, v, lengths)
    return (found if reader.prefix is None else reader.prefix.then(found)).whole()
