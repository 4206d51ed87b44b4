"""A decoder with the keys and values of contexts, which it has read once for all rows.

In: the ids of contexts, rows of texts. Out: a `Reader` with the contexts as its prefix, hidden states of the texts. The
caller has entered `jax.set_mesh`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cdjax.model import cache
from cdjax.model.decoder import Decoder, row_positions, unstack


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """Packed texts, several in a row; a text sees itself and its context alone.

    A batch has X parts, a part G contexts, and a context M rows of T tokens.
    """

    tokens: Int[Array, "X G M T"]
    positions: Int[Array, "X G M T"]  # from 0 in every text
    texts: Int[Array, "X G M T"]  # a token's text, numbered from 1 in its row; 0 is padding
    predictors: Int[Array, "X C"]  # index among its part's G x M x T tokens of the token before each kept token


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reader:
    """A decoder, and the keys and values of a prefix that it reads all rows after."""

    decoder: Decoder
    prefix: cache.Prefix | None = None

    @property
    def contexts(self) -> int:
        """The number of contexts in the prefix; rows are grouped by them."""
        return 1 if self.prefix is None else len(self.prefix.lengths)

    @property
    def length(self) -> int:
        """The number of tokens of the longest context."""
        return 0 if self.prefix is None else int(np.max(self.prefix.lengths))

    def after(self, *contexts: Int[np.ndarray, "_"]) -> "Reader":
        """The reader with a context, or several apart, read after its prefix; itself if they have no token.

        The contexts' keys and values are computed once, and padded to one of few widths, so that few are compiled. The
        reader's prefix has a single context, or as many as `contexts`.
        """
        lengths = np.array([len(context) for context in contexts], np.int32)
        if not lengths.any():
            return self
        padded = np.zeros((len(contexts), -(-lengths.max() // cache.COLUMNS) * cache.COLUMNS), np.int32)
        for row, context in zip(padded, contexts, strict=True):
            row[: len(context)] = context
        return dataclasses.replace(self, prefix=_read(self, padded, lengths))

    def joined(self, other: cache.Prefix) -> "Reader":
        """The reader with `other` after its prefix, which was computed or trained apart from it.

        The other prefix's keys are rotated to their positions after the first, but it did not attend to the first, as
        if both had been read under a mask that keeps them apart; with `after` it would attend.
        """
        return dataclasses.replace(self, prefix=other if self.prefix is None else _join(self, other))

    def unstacked(self) -> "Reader":
        """The reader with its decoder in the form for sampling, see `decoder.unstack`."""
        return dataclasses.replace(self, decoder=unstack(self.decoder))

    def hidden(self, rows: Rows) -> Float[Array, "X C D"]:
        """The hidden state that predicts each kept token.

        The prefix has a single context for all texts, or the contexts that the rows are grouped by.
        """
        return self.states(rows, ())[0]

    def states(
        self, rows: Rows, layers: tuple[int, ...]
    ) -> tuple[Float[Array, "X C D"], dict[int, Float[Array, "X C D"]]]:
        """The hidden state that predicts each kept token, and the residual streams of chosen layers at its position.

        Layers are numbered as in `Decoder.states`. Raises UserError for a layer that the decoder does not have.
        """
        parts, contexts, count, width = rows.tokens.shape

        def by_context(x: Array) -> Array:
            return jnp.swapaxes(x, 0, 1).reshape(-1, width)

        def kept(x: Array) -> Array:
            by_part = jnp.swapaxes(x.reshape(contexts, parts, count * width, -1), 0, 1)
            by_part = by_part.reshape(parts, contexts * count * width, -1)
            return jnp.take_along_axis(by_part, rows.predictors[..., None], 1)

        tokens, positions, texts = by_context(rows.tokens), by_context(rows.positions), by_context(rows.texts)
        if self.prefix is not None:
            positions = positions + self.prefix.starts(len(tokens))[:, None]
        hidden, streams = self.decoder.states(tokens, positions, texts > 0, layers, prefix=self.prefix, texts=texts)
        return kept(hidden), {number: kept(stream) for number, stream in streams.items()}


@jax.jit
def _read(reader: Reader, contexts: Int[Array, "G P"], lengths: Int[Array, "G"]) -> cache.Prefix:
    real = jnp.arange(contexts.shape[1])[None] < lengths[:, None]
    positions = row_positions(real, reader.prefix)
    k, v = reader.decoder.read(contexts, positions, real, prefix=reader.prefix)
    new = cache.Prefix(k, v, lengths)
    return (new if reader.prefix is None else reader.prefix.then(new)).whole()


@jax.jit
def _join(reader: Reader, other: cache.Prefix) -> cache.Prefix:
    assert reader.prefix is not None
    return reader.prefix.then(other.moved(reader.prefix.lengths, reader.decoder.spec)).whole()
