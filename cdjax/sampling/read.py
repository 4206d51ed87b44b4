"""A prompt and a given completion -> hidden states and log-probabilities at the completion's tokens.

Prompts are left-padded and completions right-padded, so the column of the hidden state that predicts the completion's
first token is static, whatever the prompt's length. The caller has entered `jax.set_mesh`.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, Shaped

from cdjax.model.decoder import Decoder, row_positions
from cdjax.model.reader import Reader
from cdjax.parallel import constrain, parts
from cdjax.sampling import choose

POSITIONS = 128  # the fewest positions of a device whose logits are made together


def completion_hidden(
    reader: Reader,
    prompt: Int[Array, "B T"],
    prompt_real: Bool[Array, "B T"],
    completion: Int[Array, "B C"],
    completion_real: Bool[Array, "B C"],
) -> Float[Array, "B C D"]:
    """The hidden state that predicts each completion token."""
    tokens = jnp.concatenate([prompt, completion[:, :-1]], 1)  # nothing follows the last one
    real = jnp.concatenate([prompt_real, completion_real[:, :-1]], 1)
    hidden, _ = reader.decoder(tokens, row_positions(real, reader.prefix), real, prefix=reader.prefix)
    return hidden[:, prompt.shape[1] - 1 :]


@jax.jit
def logprobs(
    reader: Reader,
    prompt: Int[Array, "B T"],
    prompt_real: Bool[Array, "B T"],
    completion: Int[Array, "B C"],
    completion_real: Bool[Array, "B C"],
) -> Float[Array, "B C"]:
    """Log-probability of each completion token at temperature 1, 0 at padding.

    Logits exist for `columns_at_once` columns at a time.
    """
    hidden = completion_hidden(reader, prompt, prompt_real, completion, completion_real)
    out = reader.decoder.readout().gathered()
    chunk = columns_at_once(reader.decoder, completion)

    def score(part: tuple[Array, Array]) -> Array:
        hidden, ids = part
        logits = constrain(out(hidden), "batch", "length", "vocab")
        flat = choose.logprobs(logits.reshape(-1, logits.shape[-1]), ids.reshape(-1, 1), 1.0)
        return flat.reshape(ids.shape)

    scores = jax.lax.map(score, (chunks(hidden, chunk), chunks(completion, chunk)))
    scores = jnp.moveaxis(scores, 0, 1).reshape(len(completion), -1)[:, : completion.shape[1]]
    return jnp.where(completion_real, scores, 0.0)


def padded(
    rows: Sequence[Int[np.ndarray, "_"]], width: int, *, left: bool
) -> tuple[Int32[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
    """Rows of ids in `width` columns, padded on the left or on the right, and the mask of real ids."""
    ids, real = np.zeros((len(rows), width), np.int32), np.zeros((len(rows), width), bool)
    for number, row in enumerate(rows):
        columns = slice(width - len(row), width) if left else slice(0, len(row))
        ids[number, columns], real[number, columns] = row, True
    return ids, real


def columns_at_once(model: Decoder, completion: Int[Array, "B C"]) -> int:
    """The number of columns whose logits are made together.

    On each device the logits, [positions, V], are about a quarter as large as the vocabulary's weights, [V, D], and all
    chunks are of about one size.
    """
    positions = max(model.spec.embed // 4, POSITIONS) * parts("batch")
    return -(-completion.shape[1] // -(-completion.size // positions))


def chunks(x: Shaped[Array, "B C ..."], size: int) -> Shaped[Array, "chunks B size ..."]:
    """[B, C, ...] -> [C / size, B, size, ...], padded with zeros to whole chunks."""
    padding = ((0, 0), (0, -x.shape[1] % size)) + ((0, 0),) * (x.ndim - 2)
    whole = jnp.pad(x, padding)
    return jnp.moveaxis(whole.reshape(len(x), whole.shape[1] // size, size, *x.shape[2:]), 1, 0)
