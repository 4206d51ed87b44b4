"""Logits of one column -> the next token of every row.

In: [B, V] logits and one random number a row, uniform in [0, 1). Out: [B] ids. The vocabulary is searched in two steps,
first among blocks of BLOCK entries, then inside the few blocks that matter: exact, and cheaper than a sort, a
cumulative sum or noise over all of it.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cdjax.errors import UserError

ROUNDING = 1e-7  # a float32 sum of probabilities does not know a tail smaller than this
BLOCK = 64  # vocabulary entries in a block: between the smallest total work for k = 32 and for k = 1


@dataclasses.dataclass(frozen=True)
class Choice:
    """A rule to choose the next token: `top_k` cuts the vocabulary, then `top_p` keeps the nucleus of the rest.

    Hashable, so that a compiled sampler is built once for it. Raises UserError for a value out of range.
    """

    temperature: float = 1.0  # 0 is greedy
    top_k: int = 0  # 0 keeps the whole vocabulary
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature must be 0 (greedy) or more, got {self.temperature}")
        if self.top_k < 0:
            raise UserError(f"top_k must be 0 (the whole vocabulary) or more, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p must be above 0 and at most 1, got {self.top_p}")

    def __call__(self, logits: Float[Array, "B V"], uniforms: Float[Array, "B"]) -> Int[Array, "B"]:
        """One id a row, determined by the logits and by one random number a row, uniform in [0, 1)."""
        if self.temperature == 0:
            return largest(logits, 1)[1][:, 0]
        if not 0 < self.top_k < logits.shape[1]:
            return draw(self._weights(logits), uniforms[:, None])[:, 0]
        values, ids = largest(logits, self.top_k)
        return jnp.take_along_axis(ids, draw(self._weights(values), uniforms[:, None]), 1)[:, 0]

    def probabilities(self, logits: Float[Array, "B V"]) -> Float[Array, "B V"]:
        """The distribution that `__call__` draws from: after temperature, `top_k` and `top_p`."""
        if self.temperature == 0:
            return jax.nn.one_hot(largest(logits, 1)[1][:, 0], logits.shape[1])
        if 0 < self.top_k < logits.shape[1]:
            values, ids = largest(logits, self.top_k)
            rows = jnp.arange(len(logits))[:, None]
            weights = jnp.zeros_like(logits).at[rows, ids].set(self._weights(values), unique_indices=True)
        else:
            weights = self._weights(logits)
        return weights / weights.sum(-1, keepdims=True)

    def _weights(self, logits: Float[Array, "B _"]) -> Float[Array, "B _"]:
        weights = softmax_weights(logits, self.temperature)
        return weights if self.top_p == 1 else nucleus(weights, self.top_p)


def softmax_weights(logits: Float[Array, "B V"], temperature: float) -> Float[Array, "B V"]:
    """The unnormalised softmax: the largest weight of a row is 1."""
    return jnp.exp((logits - logits.max(-1, keepdims=True)) / temperature)


def mean(logits: Float[Array, "G B V"]) -> Float[Array, "B V"]:
    """The log-probabilities of an ensemble: the mean of its G members' probabilities, at temperature 1."""
    return jax.nn.logsumexp(jax.nn.log_softmax(logits), 0) - jnp.log(float(len(logits)))


def logprobs(logits: Float[Array, "B V"], ids: Int[Array, "B k"], temperature: float) -> Float[Array, "B k"]:
    """log_softmax(logits / temperature) at the ids; no [B, V] array of log-probabilities is made."""
    total = jnp.log(softmax_weights(logits, temperature).sum(-1, keepdims=True))
    return (jnp.take_along_axis(logits, ids, 1) - logits.max(-1, keepdims=True)) / temperature - total


def with_tail(listed: Float[Array, "*b k"]) -> Float[Array, "*b k+1"]:
    """Log-probabilities of the listed outcomes, and of all others as one more outcome, the tail.

    The tail's probability is at least ROUNDING, so that reverse KL stays bounded.
    """
    mass = jnp.minimum(jax.nn.logsumexp(listed, -1, keepdims=True), -ROUNDING)
    return jnp.concatenate([listed, jnp.log(-jnp.expm1(mass))], -1)


def largest(logits: Float[Array, "B V"], k: int) -> tuple[Float[Array, "B k"], Int[Array, "B k"]]:
    """The k largest logits of each row and their ids, largest first; among equal logits the smaller id is first.

    All of them lie in the k blocks whose maxima are largest: each of those blocks has an entry that is at least as
    large as any entry of the other blocks.
    """
    if -(-logits.shape[1] // BLOCK) <= k:
        values, ids = jax.lax.top_k(logits, k)
        return values, ids
    blocks = _blocks(logits, -jnp.inf)
    _, chosen = jax.lax.top_k(blocks.max(-1), k)
    chosen = jnp.sort(chosen, -1)  # so that equal logits keep the order of their ids
    candidates = jnp.take_along_axis(blocks, chosen[..., None], 1).reshape(len(logits), k * BLOCK)
    values, positions = jax.lax.top_k(candidates, k)
    return values, jnp.take_along_axis(chosen, positions // BLOCK, 1) * BLOCK + positions % BLOCK


def nucleus(weights: Float[Array, "B _"], share: float) -> Float[Array, "B _"]:
    """The weights with all but the nucleus set to 0: the fewest largest weights that have `share` of the total.

    Weights that equal the smallest of the nucleus stay too. Weights lie in [0, 1], where floats are ordered as their
    bits are read as integers: the threshold is found by bisection on the bits, which is exact and needs no sort.
    """
    bits = jax.lax.bitcast_convert_type(weights, jnp.int32)
    mass = share * weights.sum(-1)

    def halve(_: Int[Array, ""], interval: tuple[Array, Array]) -> tuple[Array, Array]:
        # At the threshold `low` the weights have enough mass, at `high` they have not.
        low, high = interval
        middle = (low + high) // 2
        enough = jnp.where(bits >= middle[:, None], weights, 0).sum(-1) >= mass
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    above_one = jax.lax.bitcast_convert_type(jnp.float32(1), jnp.int32) + 1
    zeros = jnp.zeros(len(weights), jnp.int32)
    threshold, _ = jax.lax.fori_loop(0, 31, halve, (zeros, jnp.full_like(zeros, above_one)))
    return jnp.where(bits >= threshold[:, None], weights, 0)


def draw(weights: Float[Array, "B V"], uniforms: Float[Array, "B u"]) -> Int[Array, "B u"]:
    """Ids drawn in proportion to their weights, one for each random number. An id of weight 0 is never drawn.

    The cumulative sum is inverted twice: over the blocks' totals, then over the entries of the block that was chosen.
    """
    blocks = _blocks(weights, 0.0)
    chosen, uniforms = _invert(blocks.sum(-1)[:, None], uniforms)
    inside = jnp.take_along_axis(blocks, chosen[..., None], 1)
    return chosen * BLOCK + _invert(inside, uniforms)[0]


def _invert(
    weights: Float[Array, "B #u entries"], uniforms: Float[Array, "B u"]
) -> tuple[Int[Array, "B u"], Float[Array, "B u"]]:
    """The entry at which the cumulative sum passes uniform x total, and the random number that remains.

    The remainder is how far into the entry the sum passes, as a share of its weight: again uniform in [0, 1), it draws
    among what the entry stands for.
    """
    cumulative = jnp.cumsum(weights, -1)
    goal = uniforms[..., None] * cumulative[..., -1:]
    # A parallel sum may rise by a rounding error at an entry of weight 0: such entries are passed over, and if rounding
    # left no entry beyond the goal, the last one with weight is taken.
    last = jnp.where(weights > 0, jnp.arange(weights.shape[-1])[None, None], 0).max(-1)
    beyond = (weights > 0) & (cumulative > goal)
    entry = jnp.where(beyond.any(-1), jnp.argmax(beyond, -1), last)
    weight = jnp.take_along_axis(weights, entry[..., None], -1)
    remainder = 1 - (jnp.take_along_axis(cumulative, entry[..., None], -1) - goal) / weight
    return entry, jnp.clip(remainder[..., 0], 0, jnp.float32(1 - 2**-24))  # the largest float32 below 1


def _blocks(x: Float[Array, "B V"], fill: float) -> Float[Array, "B blocks block"]:
    """The vocabulary in blocks of BLOCK entries, the last one padded."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % BLOCK)), constant_values=fill).reshape(len(x), -1, BLOCK)
