"""Two models that read the same answers -> how far the second is from the first.

In: prompts and rollouts that are there. Out: mean KL in nats a token, over the whole vocabulary.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cdjax import parallel
from cdjax.model import cache, decoder
from cdjax.rollouts import Rollout
from cdjax.sampling.score import completion_hidden
from cdjax.views.prompts import Prompts

ROWS = 16  # answers that are compared: some hundreds of tokens tell the mean to a few per cent


def divergence(
    first: decoder.Decoder,
    second: decoder.Decoder,
    mesh: jax.sharding.Mesh,
    prompts: Prompts,
    rollouts: Sequence[Rollout],
) -> float:
    """Mean KL(first || second) at the tokens of at most ROWS of the answers, both models reading the same prompts."""
    rollouts = rollouts[:: -(-len(rollouts) // ROWS)]
    own = dict(zip(prompts.inputs, prompts.own, strict=True))
    size = -(-len(rollouts) // parallel.batch_parts(mesh)) * parallel.batch_parts(mesh)
    prompt = _padded([own[rollout.input] for rollout in rollouts], size, left=True)
    completion = _padded([rollout.ids for rollout in rollouts], size, left=False)
    with jax.set_mesh(mesh):
        shared = [
            decoder.read_prefix(one, prompts.context) if len(prompts.context) else None for one in (first, second)
        ]
        batch = parallel.place_batch((*prompt, *completion), mesh)
        found = np.asarray(_divergence(first, second, *batch, *shared))
    return float(found.sum() / max(completion[1].sum(), 1))


@jax.jit
def _divergence(
    first: decoder.Decoder,
    second: decoder.Decoder,
    prompt: Int[Array, "B T"],
    prompt_real: Bool[Array, "B T"],
    completion: Int[Array, "B C"],
    completion_real: Bool[Array, "B C"],
    first_prefix: cache.Prefix | None,
    second_prefix: cache.Prefix | None,
) -> Float[Array, "B C"]:
    """KL at every completion token, 0 at padding. Logits exist for one column at a time."""
    read = (prompt, prompt_real, completion, completion_real)
    hidden = (completion_hidden(first, *read, first_prefix), completion_hidden(second, *read, second_prefix))

    def one(column: tuple[Array, Array]) -> Array:
        p, q = (jax.nn.log_softmax(model.logits(x)) for model, x in zip((first, second), column, strict=True))
        return jnp.sum(jnp.exp(p) * (p - q), -1)

    found = jax.lax.map(one, jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), hidden))
    return jnp.where(completion_real, found.T, 0.0)


def _padded(rows: Sequence[np.ndarray], size: int, *, left: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rows side by side and which of their columns are real, with empty rows up to `size`."""
    longest = max(len(row) for row in rows)
    ids, real = np.zeros((size, longest), np.int32), np.zeros((size, longest), bool)
    for at, row in enumerate(rows):
        columns = slice(longest - len(row), None) if left else slice(0, len(row))
        ids[at, columns], real[at, columns] = row, True
    return ids, real
