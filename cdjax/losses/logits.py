"""Logits of a tile of positions -> every loss over them there, and the derivative of their sum, block by block.

In: hidden states and targets at n positions. Out: metrics [n], and the slope of `loss` with respect to the logits of
any block of the vocabulary [n, v], so that no probabilities or slopes of [n, V] are made beside the logits: only what
listed ids pull at.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array

from cdjax import parallel
from cdjax.losses import divergence, named
from cdjax.losses.loss import Divergence, Term, TokenLoss
from cdjax.losses.positions import Positions
from cdjax.model.decoder import Readout
from cdjax.sampling.targets.target import Target

OUTCOMES = 4096  # the fewest outcomes of a block


class Block(NamedTuple):
    """Neighbouring outcomes of the vocabulary."""

    start: Array
    size: int

    def of(self, x: Array, axis: int = -1) -> Array:
        """Their part of an array."""
        return x if x.shape[axis] == self.size else jax.lax.dynamic_slice_in_dim(x, self.start, self.size, axis)

    def put(self, x: Array, part: Array, axis: int) -> Array:
        """The array with another part for them."""
        return part if x.shape[axis] == self.size else jax.lax.dynamic_update_slice_in_dim(x, part, self.start, axis)


Slope: TypeAlias = Callable[[Block], Array]  # the derivative of a loss with respect to the logits of a block, [n, v]


class Logprobs(NamedTuple):
    """Log-probabilities of every outcome at n positions, never written out beside the logits they come from."""

    logits: Array  # [n, V]
    peak: Array  # [n, 1]
    total: Array  # [n, 1], log of the sum of exponentials
    temperature: Any  # of all positions, or [n, 1]

    def of(self, block: Block) -> Array:
        """[n, v]"""
        return self._normal(block.of(self.logits))

    def at(self, ids: Array) -> Array:
        """[n, k]"""
        return self._normal(jnp.take_along_axis(self.logits, ids, -1))

    def _normal(self, logits: Array) -> Array:
        return (logits - self.peak) / self.temperature - self.total


class Pulls(NamedTuple):
    """The slope of a loss that reads listed log-probabilities alone: its derivatives by those."""

    q: Logprobs
    ids: Array  # [n, k]
    by: Array  # [n, k]


class Part(NamedTuple):
    """Some of the losses at n positions."""

    loss: Array  # [n], the sum of each times its weight
    values: dict[str, Array]  # [n], each without
    metrics: dict[str, Array]  # [n], what else is told
    slope: Slope | Pulls | None  # of `loss`


def terms(
    given: Readout, wanted: Readout | None, at: Positions, targets: Target, losses: tuple[Term, ...]
) -> tuple[dict[str, Array], Slope]:
    """Every metric at each position of a tile, [n], and the slope of `loss`.

    Where there are several losses, each is told by its name, too, without its weight and temperature^2.
    """
    logits = parallel.constrain(given(at.hidden), "length", "vocab")
    q = _logprobs(logits, 1.0)
    temperature = targets.temperature if at.temperature is None else at.temperature[:, None]
    heated = q if at.temperature is None and temperature == 1 else _logprobs(logits, temperature)
    every = {"cross_entropy": -q.at(at.ids[:, None])[:, 0], "count": jnp.ones(len(logits))}
    tokens, divergences = named(losses, TokenLoss), named(losses, Divergence)
    parts = [_of_tokens(q, at, targets, tokens)] if tokens else []
    if wanted is not None:
        assert at.teacher is not None
        teacher = _logprobs(parallel.constrain(wanted(at.teacher), "length", "vocab"), temperature)
        parts.append(_of_vocabulary(teacher, heated, divergences))
    elif targets.gives & {"probabilities", "draws"}:
        parts.append(_of_listed(heated, at, targets, divergences))
    for part in parts:
        every |= part.metrics | (part.values if len(losses) > 1 else {})
    every["loss"] = _sum([part.loss for part in parts if part.slope is not None], jnp.zeros(len(logits)))
    slope = _joined(logits, [part.slope for part in parts])
    if given.soft_cap is None:
        return every, slope
    return every, lambda block: slope(block) * (1 - jnp.square(block.of(logits) / given.soft_cap))


def over_blocks(vocab: int, step: Callable[[Block, Any], Any], start: Any) -> Any:
    """`step` of every block and what the last one returned; equal blocks, or one where devices share the vocabulary.

    What is made of a block stays in the cache; arrays of [n, V] beside the logits would cost more than their memory.
    """
    most = 1 if parallel.parts("vocab") > 1 else max(vocab // OUTCOMES, 1)
    blocks = next(blocks for blocks in range(most, 0, -1) if vocab % blocks == 0)
    size = vocab // blocks
    return jax.lax.fori_loop(0, blocks, lambda i, carry: step(Block(i * size, size), carry), start)


def _of_tokens(q: Logprobs, at: Positions, targets: Target, losses: dict[str, TokenLoss]) -> Part:
    """Losses that read the log-probability of the written token."""
    ids = at.ids[:, None]

    def values(student: Array) -> dict[str, Array]:
        return {name: loss.of_tokens(student[:, 0], targets, at.targets) for name, loss in losses.items()}

    loss, found, by = _weighed(losses, values, q.at(ids))
    return Part(loss, found, {}, Pulls(q, ids, by))


def _of_listed(q: Logprobs, at: Positions, targets: Target, losses: dict[str, Divergence]) -> Part:
    """Divergences from what was recorded: from the probabilities of listed ids, or from draws."""
    ids, known = targets.listed(at.targets), "probabilities" in targets.gives
    student, square = q.at(ids), q.temperature**2

    def values(student: Array) -> dict[str, Array]:
        if not known:
            return {name: loss.of_draws(student).mean(-1) for name, loss in losses.items()}
        outcomes = targets.outcomes(at.targets, student)
        return {name: divergence.total(loss.pointwise, *outcomes) for name, loss in losses.items()}

    loss, found, by = _weighed(losses, values, student)
    metrics = {"kl": divergence.kl(*targets.outcomes(at.targets, student))} if known else {}
    metrics |= targets.metrics(at.targets, student)
    return Part(_flat(square) * loss, found, metrics, Pulls(q, ids, square * by) if losses else None)


def _of_vocabulary(p: Logprobs, q: Logprobs, losses: dict[str, Divergence]) -> Part:
    """Divergences between two rows of logits, all in one pass. Their weighted sum is one, too: it has one slope."""
    square = q.temperature**2
    sums: list[Any] = [loss.derivative_sum for loss in losses.values()]
    known = None not in sums

    def h(p: Array, q: Array) -> Array:
        return _sum([loss.weight * loss.pointwise(p, q) for loss in losses.values()])

    def add(block: Block, total: Any) -> Any:
        a, b = p.of(block), q.of(block)  # finite, so that no outcome is excluded
        found = {name: loss.pointwise(a, b).sum(-1) for name, loss in losses.items()}
        pulled = None if known else divergence.derivative(h, a, b).sum(-1, keepdims=True)
        return jax.tree.map(jnp.add, total, (found, divergence.expected(a, a - b).sum(-1), pulled))

    none = jnp.zeros(len(q.logits))
    start = dict.fromkeys(losses, none), none, None if known else none[:, None]
    found, kl, pulled = over_blocks(q.logits.shape[-1], add, start)
    if known:
        pulled = sum(loss.weight * total for loss, total in zip(losses.values(), sums, strict=True))

    def slope(block: Block) -> Array:
        by = divergence.derivative(h, p.of(block), q.of(block)) - jnp.exp(q.of(block)) * pulled
        return square * (by / q.temperature)

    loss = _sum([losses[name].weight * value for name, value in found.items()], none)
    return Part(_flat(square) * loss, found, {"kl": kl}, slope if losses else None)


def _weighed(losses: dict[str, Any], values: Callable[[Array], dict[str, Array]], student: Array) -> tuple:
    """The weighted sum of losses [n], each of them, and the sum's derivative by the student's log-probabilities."""

    def total(student: Array) -> tuple[Array, dict[str, Array]]:
        found = values(student)
        return _sum([loss.weight * found[name] for name, loss in losses.items()], jnp.zeros(len(student))), found

    loss, back, found = jax.vjp(total, student, has_aux=True)
    return loss, found, *back(jnp.ones(loss.shape))


def _joined(logits: Array, slopes: list[Slope | Pulls | None]) -> Slope:
    """Their sum; all listed ids together pull at one array of [n, V]."""
    pulls = [slope for slope in slopes if isinstance(slope, Pulls)]
    dense = [slope for slope in slopes if slope is not None and not isinstance(slope, Pulls)]
    pulled, rows = jnp.zeros_like(logits), jnp.arange(len(logits))[:, None]
    for one in pulls:
        pulled = pulled.at[rows, one.ids].add(one.by / one.q.temperature)

    def slope(block: Block) -> Array:
        parts = [one(block) for one in dense]
        if pulls:
            parts.append(block.of(pulled))
        for one in pulls:
            parts[-1] -= (one.by / one.q.temperature).sum(-1, keepdims=True) * jnp.exp(one.q.of(block))
        return _sum(parts) if parts else jnp.zeros((len(logits), block.size))

    return slope


def _logprobs(logits: Array, temperature: Any) -> Logprobs:
    peak = logits.max(-1, keepdims=True)

    def add(block: Block, total: Array) -> Array:
        return total + jnp.sum(jnp.exp((block.of(logits) - peak) / temperature), -1, keepdims=True)

    return Logprobs(logits, peak, jnp.log(over_blocks(logits.shape[-1], add, jnp.zeros(peak.shape))), temperature)


def _sum(parts: Sequence[Array], nothing: Array | None = None) -> Any:
    """Of at least one part as they are, without a zero before them; of none, `nothing`."""
    return functools.reduce(operator.add, parts) if parts else nothing


def _flat(square: Any) -> Any:
    """A number for all positions, or [n, 1] -> [n]."""
    return square if isinstance(square, float) else square[:, 0]
