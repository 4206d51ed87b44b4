"""A prompt and a completion that is already there -> hidden states and log-probabilities at the completion's tokens.

Prompts are left-padded and completions right-padded, so the token that predicts the completion's first one is in a
static column, whatever the prompt's length. The caller has entered `jax.set_mesh`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cdjax.model import cache, decoder
from cdjax.parallel import constrain, parts
from cdjax.sampling import choose

POSITIONS = 128  # the fewest of a device at a time


def completion_hidden(
    model: decoder.Decoder,
    prompt: Int[Array, "B T"],
    prompt_real: Bool[Array, "B T"],
    completion: Int[Array, "B C"],
    completion_real: Bool[Array, "B C"],
    prefix: cache.Prefix | None = None,
) -> Float[Array, "B C D"]:
    """The hidden state that predicts each completion token. `prefix` is the context that stands before every prompt."""
    tokens = jnp.concatenate([prompt, completion[:, :-1]], 1)  # nothing follows the last one
    real = jnp.concatenate([prompt_real, completion_real[:, :-1]], 1)
    hidden, _ = model(tokens, decoder.row_positions(real, prefix), real, prefix=prefix)
    return hidden[:, prompt.shape[1] - 1 :]


@jax.jit
def logprobs(
    model: decoder.Decoder,
    prompt: Int[Array, "B T"],
    prompt_real: Bool[Array, "B T"],
    completion: Int[Array, "B C"],
    completion_real: Bool[Array, "B C"],
    prefix: cache.Prefix | None = None,
) -> Float[Array, "B C"]:
    """Log-probability of each completion token at temperature 1, 0 at padding. Logits exist for some columns at a time.

    They are so many that each device's logits are a quarter as large as the vocabulary's weights.
    """
    hidden = completion_hidden(model, prompt, prompt_real, completion, completion_real, prefix)
    out = model.readout().gathered()
    positions = max(model.spec.embed // 4, POSITIONS) * parts("batch")
    chunks = -(-completion.size // positions)
    chunk = -(-completion.shape[1] // chunks)

    def one(part: tuple[Array, Array]) -> Array:
        hidden, ids = part
        logits = constrain(out(hidden), "batch", "length", "vocab")
        flat = choose.logprobs(logits.reshape(-1, logits.shape[-1]), ids.reshape(-1, 1), 1.0)
        return flat.reshape(ids.shape)

    scored = jax.lax.map(one, (_chunks(hidden, chunk), _chunks(completion, chunk)))
    scored = jnp.moveaxis(scored, 0, 1).reshape(len(completion), -1)[:, : completion.shape[1]]
    return jnp.where(completion_real, scored, 0.0)


def _chunks(x, size: int):
    """[B, C, ...] -> [C / size, B, size, ...], padded with zeros to whole chunks."""
    padding = ((0, 0), (0, -x.shape[1] % size)) + ((0, 0),) * (x.ndim - 2)
    return jnp.moveaxis(jnp.pad(x, padding).reshape(len(x), -1, size, *x.shape[2:]), 1, 0)
