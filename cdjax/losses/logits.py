"""Logits of a tile of positions -> the losses over logits, and the derivative of their sum, block by block.

In: hidden states and targets at n positions. Out: metrics [n], and the slope of `loss` with respect to the logits of
any block of the vocabulary [n, v]: beside the logits there is no array of [n, V] but the derivatives of listed ids.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cdjax import parallel
from cdjax.losses import divergence, named
from cdjax.losses.loss import Divergence, Term, TokenLoss
from cdjax.losses.positions import Positions
from cdjax.model.decoder import Readout
from cdjax.sampling.targets.target import Target

OUTCOMES = 4096  # the fewest outcomes of a block


class Block(NamedTuple):
    """A range of outcomes of the vocabulary."""

    start: Int[Array, ""] | int
    size: int

    def of(self, x: Array, axis: int = -1) -> Array:
        """The block's part of an array."""
        return x if x.shape[axis] == self.size else jax.lax.dynamic_slice_in_dim(x, self.start, self.size, axis)

    def put(self, x: Array, part: Array, axis: int) -> Array:
        """The array with `part` in the block's place."""
        return part if x.shape[axis] == self.size else jax.lax.dynamic_update_slice_in_dim(x, part, self.start, axis)


# The derivative of a loss with respect to the logits of a block of v outcomes.
Slope: TypeAlias = Callable[[Block], Float[Array, "n v"]]
Values: TypeAlias = dict[str, Float[Array, "n"]]  # by name, at n positions


class Logprobs(NamedTuple):
    """Log-probabilities of all outcomes at n positions, computed from the logits where they are used."""

    logits: Float[Array, "n V"]
    peak: Float[Array, "n 1"]  # the largest logit
    total: Float[Array, "n 1"]  # the log of the sum of exp((logits - peak) / temperature)
    temperature: float | Float[Array, "n 1"]

    def of(self, block: Block) -> Float[Array, "n v"]:
        """The log-probabilities of a block's outcomes."""
        return self._normal(block.of(self.logits))

    def of_ids(self, ids: Int[Array, "n k"]) -> Float[Array, "n k"]:
        """The log-probabilities of the ids that are listed at each position."""
        return self._normal(jnp.take_along_axis(self.logits, ids, -1))

    def _normal(self, logits: Float[Array, "n o"]) -> Float[Array, "n o"]:
        return (logits - self.peak) / self.temperature - self.total


class Pulls(NamedTuple):
    """The slope of a loss of listed log-probabilities alone, as its derivatives by them."""

    q: Logprobs
    ids: Int[Array, "n k"]
    by: Float[Array, "n k"]  # d loss / d log q of each id


class Part(NamedTuple):
    """Some of the losses at n positions."""

    loss: Float[Array, "n"]  # their weighted sum
    values: Values  # each loss without its weight
    metrics: Values  # metrics beside the losses
    slope: Slope | Pulls | None  # of `loss`; None if it has no gradient


def terms(
    head: Readout, teacher_head: Readout | None, positions: Positions, targets: Target, losses: tuple[Term, ...]
) -> tuple[Values, Slope]:
    """The metrics at each position of a tile by name, and the slope of `loss`.

    If there are several losses, each is a metric, too, without its weight and temperature^2.
    """
    logits = parallel.constrain(head(positions.hidden), "length", "vocab")
    q = _logprobs(logits, 1.0)
    temperature = targets.temperature if positions.temperature is None else positions.temperature[:, None]
    heated = q if positions.temperature is None and temperature == 1 else _logprobs(logits, temperature)
    metrics = {"cross_entropy": -q.of_ids(positions.ids[:, None])[:, 0], "count": jnp.ones(len(logits))}
    tokens, divergences = named(losses, TokenLoss), named(losses, Divergence)
    parts = [_of_tokens(q, positions, targets, tokens)] if tokens else []
    if teacher_head is not None:
        assert positions.teacher is not None
        teacher = parallel.constrain(teacher_head(positions.teacher), "length", "vocab")
        parts.append(_of_vocabulary(_logprobs(teacher, temperature), heated, divergences))
    elif targets.gives & {"probabilities", "draws"}:
        parts.append(_of_listed(heated, positions, targets, divergences))
    for part in parts:
        metrics |= part.metrics | (part.values if len(losses) > 1 else {})
    metrics["loss"] = _sum([part.loss for part in parts if part.slope is not None], jnp.zeros(len(logits)))
    slope = _joined(logits, [part.slope for part in parts])
    if head.soft_cap is None:
        return metrics, slope
    # d (cap tanh(x / cap)) / dx = 1 - tanh^2, and the logits are cap tanh(x / cap).
    return metrics, lambda block: slope(block) * (1 - jnp.square(block.of(logits) / head.soft_cap))


def over_blocks(vocab: int, step: Callable[[Block, Any], Any], start: Any) -> Any:
    """The carry after `step` of every block: blocks of equal size, or a single block if devices share the vocabulary.

    The arrays of a block stay in the cache; arrays of [n, V] beside the logits would cost time as well as memory.
    """
    most = 1 if parallel.parts("vocab") > 1 else max(vocab // OUTCOMES, 1)
    blocks = next(blocks for blocks in range(most, 0, -1) if vocab % blocks == 0)
    size = vocab // blocks
    return jax.lax.fori_loop(0, blocks, lambda i, carry: step(Block(i * size, size), carry), start)


def _of_tokens(q: Logprobs, positions: Positions, targets: Target, losses: dict[str, TokenLoss]) -> Part:
    """The losses over the log-probability of the written token."""
    ids = positions.ids[:, None]

    def values(student: Array) -> Values:
        return {name: loss.of_tokens(student[:, 0], targets, positions.targets) for name, loss in losses.items()}

    loss, by_name, by = _weighed(losses, values, q.of_ids(ids))
    return Part(loss, by_name, {}, Pulls(q, ids, by))


def _of_listed(q: Logprobs, positions: Positions, targets: Target, losses: dict[str, Divergence]) -> Part:
    """The divergences from recorded targets: from the probabilities of listed ids, or from draws."""
    recorded, known = positions.targets, "probabilities" in targets.gives
    ids = targets.listed(recorded)
    student, square = q.of_ids(ids), q.temperature**2

    def values(student: Array) -> Values:
        if not known:
            return {name: loss.of_draws(student).mean(-1) for name, loss in losses.items()}
        outcomes = targets.outcomes(recorded, student)
        return {name: divergence.total(loss.pointwise, *outcomes) for name, loss in losses.items()}

    loss, by_name, by = _weighed(losses, values, student)
    metrics = {"kl": divergence.kl(*targets.outcomes(recorded, student))} if known else {}
    metrics |= targets.metrics(recorded, student)
    return Part(_flat(square) * loss, by_name, metrics, Pulls(q, ids, square * by) if losses else None)


def _of_vocabulary(p: Logprobs, q: Logprobs, losses: dict[str, Divergence]) -> Part:
    """The divergences of two distributions over the vocabulary, in one pass; their weighted sum is a divergence, too.

    The slope by the logits is that of the chain rule through the softmax, see `divergence.derivative`; the sum that it
    subtracts is known for some divergences, and otherwise added up in the same pass as their values.
    """
    square = q.temperature**2
    known_sums: list[Any] = [loss.derivative_sum for loss in losses.values()]
    known = None not in known_sums

    def h(p: Array, q: Array) -> Array:
        return _sum([loss.weight * loss.pointwise(p, q) for loss in losses.values()])

    def add(block: Block, totals: Any) -> Any:
        a, b = p.of(block), q.of(block)  # finite, so that no outcome is excluded
        sums = {name: loss.pointwise(a, b).sum(-1) for name, loss in losses.items()}
        slopes = None if known else divergence.derivative(h, a, b).sum(-1, keepdims=True)
        return jax.tree.map(jnp.add, totals, (sums, divergence.expected(a, a - b).sum(-1), slopes))

    zeros = jnp.zeros(len(q.logits))
    start = dict.fromkeys(losses, zeros), zeros, None if known else zeros[:, None]
    by_name, kl, slopes = over_blocks(q.logits.shape[-1], add, start)
    if known:
        slopes = sum(loss.weight * total for loss, total in zip(losses.values(), known_sums, strict=True))

    def slope(block: Block) -> Array:
        by = divergence.derivative(h, p.of(block), q.of(block)) - jnp.exp(q.of(block)) * slopes
        return square * (by / q.temperature)

    loss = _sum([losses[name].weight * value for name, value in by_name.items()], zeros)
    return Part(_flat(square) * loss, by_name, {"kl": kl}, slope if losses else None)


def _weighed(
    losses: dict[str, Any], values: Callable[[Array], Values], student: Float[Array, "n k"]
) -> tuple[Float[Array, "n"], Values, Float[Array, "n k"]]:
    """The weighted sum of losses, the losses by name, and the sum's derivative by the student's log-probabilities."""

    def total(student: Array) -> tuple[Array, Values]:
        by_name = values(student)
        return _sum([loss.weight * by_name[name] for name, loss in losses.items()], jnp.zeros(len(student))), by_name

    loss, back, by_name = jax.vjp(total, student, has_aux=True)
    (by,) = back(jnp.ones(loss.shape))
    return loss, by_name, by


def _joined(logits: Float[Array, "n V"], slopes: list[Slope | Pulls | None]) -> Slope:
    """The sum of slopes; the derivatives by listed ids are added up in a single array of [n, V].

    Through the softmax they reach every outcome, by -q times their sum.
    """
    listed = [slope for slope in slopes if isinstance(slope, Pulls)]
    dense = [slope for slope in slopes if slope is not None and not isinstance(slope, Pulls)]
    pulled, rows = jnp.zeros_like(logits), jnp.arange(len(logits))[:, None]
    for pulls in listed:
        pulled = pulled.at[rows, pulls.ids].add(pulls.by / pulls.q.temperature)

    def slope(block: Block) -> Array:
        parts = [of_block(block) for of_block in dense]
        if listed:
            parts.append(block.of(pulled))
        for pulls in listed:
            parts[-1] -= (pulls.by / pulls.q.temperature).sum(-1, keepdims=True) * jnp.exp(pulls.q.of(block))
        return _sum(parts) if parts else jnp.zeros((len(logits), block.size))

    return slope


def _logprobs(logits: Float[Array, "n V"], temperature: float | Float[Array, "n 1"]) -> Logprobs:
    """The log-softmax of logits / temperature, as its normaliser at each position."""
    peak = logits.max(-1, keepdims=True)

    def add(block: Block, total: Array) -> Array:
        return total + jnp.sum(jnp.exp((block.of(logits) - peak) / temperature), -1, keepdims=True)

    return Logprobs(logits, peak, jnp.log(over_blocks(logits.shape[-1], add, jnp.zeros(peak.shape))), temperature)


def _sum(parts: Sequence[Array], nothing: Array | None = None) -> Any:
    """The sum of the parts, or `nothing` if there are none; unlike `sum`, it adds no zero."""
    return functools.reduce(operator.add, parts) if parts else nothing


def _flat(square: Any) -> Any:
    """[n, 1] -> [n]; a scalar for all positions is returned as it is."""
    return square if isinstance(square, float) else square[:, 0]
