"""Logits of a tile of positions -> every term of the objective there, and its derivative, block by block.

In: hidden states and targets at n positions. Out: terms [n], and the slope of `loss` with respect to the logits of
any block of the vocabulary [n, v], so that no probabilities or slopes of [n, V] are made beside the logits: only what
listed ids pull at.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array

from cdjax import parallel
from cdjax.losses import Objective, divergence
from cdjax.losses.divergence import Positions
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


Slope: TypeAlias = Callable[[Block], Array]  # the derivative of a term with respect to the logits of a block, [n, v]


class Logprobs(NamedTuple):
    """Log-probabilities of every outcome at n positions, never written out beside the logits they come from."""

    logits: Array  # [n, V]
    peak: Array  # [n, 1]
    total: Array  # [n, 1], log of the sum of exponentials
    temperature: float | Array  # of all, or [n, 1]

    def of(self, block: Block) -> Array:
        """[n, v]"""
        return self._normal(block.of(self.logits))

    def at(self, ids: Array) -> Array:
        """[n, k]"""
        return self._normal(jnp.take_along_axis(self.logits, ids, -1))

    def towards(self, ids: Array, by: Array) -> Slope:
        """The slope of a term whose derivatives with respect to the listed log-probabilities are `by`, [n, k]."""
        pulls = jnp.zeros_like(self.logits).at[jnp.arange(len(ids))[:, None], ids].add(by)
        mass = by.sum(-1, keepdims=True)
        return lambda block: (block.of(pulls) - mass * jnp.exp(self.of(block))) / self.temperature

    def _normal(self, logits: Array) -> Array:
        return (logits - self.peak) / self.temperature - self.total


def terms(
    given: Readout, wanted: Readout | None, at: Positions, targets: Target, objective: Objective
) -> tuple[dict, Slope]:
    """Every term of the objective at each position of a tile, and the slope of `loss`."""
    logits = parallel.constrain(given(at.hidden), "length", "vocab")
    q = _logprobs(logits, 1.0)
    ids = at.ids[:, None]
    hard, slope = -q.at(ids)[:, 0], q.towards(ids, -jnp.ones(ids.shape))
    every = {"loss": hard, "cross_entropy": hard, "count": jnp.ones(hard.shape)}
    if objective.kind != "cross_entropy":
        temperature = targets.temperature if at.temperature is None else at.temperature[:, None]
        heated = q if at.temperature is None and temperature == 1 else _logprobs(logits, temperature)
        soft, soft_slope, extra = _soft(heated, wanted, at, targets, objective)
        a, b = objective.alpha, (1 - objective.alpha) * temperature**2
        soft = (b if isinstance(b, float) else b[:, 0]) * soft
        every |= extra | {"loss": a * hard + soft if a else soft}
        slope = _weighed(a, slope, b, soft_slope)
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


def _soft(q: Logprobs, wanted: Readout | None, at: Positions, targets: Target, objective: Objective) -> tuple:
    """The divergence from the kind of targets there is, its slope, and the metrics that come with it."""
    if wanted is not None:
        assert at.teacher is not None
        teacher = parallel.constrain(wanted(at.teacher), "length", "vocab")
        return _full(_logprobs(teacher, q.temperature), q, objective)
    ids = targets.listed(at.targets)
    student = q.at(ids)
    if "draws" in targets.gives:
        share = jnp.full(ids.shape, 1 / ids.shape[-1])
        return -student.mean(-1), q.towards(ids, -share), {}

    def over(student: Array, kind: str) -> Array:
        outcomes = targets.outcomes(at.targets, student)
        return divergence.token_divergence(*outcomes, kind=kind, beta=objective.beta)

    soft, back = jax.vjp(functools.partial(over, kind=objective.kind), student)
    extra = {"kl": over(student, kind="forward_kl")} | targets.metrics(at.targets, student)
    return soft, q.towards(ids, *back(jnp.ones(soft.shape))), extra


def _full(p: Logprobs, q: Logprobs, objective: Objective) -> tuple[Array, Slope, dict]:
    """The divergence between two rows of logits, its slope with respect to the student's, and forward KL."""
    kind, beta = objective.kind, objective.beta

    def add(block: Block, total: tuple[Array, ...]) -> tuple[Array, ...]:
        parts = (
            divergence.token_divergence(p.of(block), q.of(block), kind=kind, beta=beta),
            divergence.token_divergence(p.of(block), q.of(block), kind="forward_kl", beta=beta),
            divergence.pull(p.of(block), q.of(block), kind=kind, beta=beta),
        )
        return jax.tree.map(jnp.add, total, parts)

    def slope(block: Block) -> Array:
        return divergence.slope(p.of(block), q.of(block), pull, kind=kind, beta=beta) / q.temperature

    soft, kl, pull = over_blocks(q.logits.shape[-1], add, (jnp.zeros(len(q.logits)),) * 3)
    return soft, slope, {"kl": kl}


def _logprobs(logits: Array, temperature: float | Array) -> Logprobs:
    peak = logits.max(-1, keepdims=True)

    def add(block: Block, total: Array) -> Array:
        return total + jnp.sum(jnp.exp((block.of(logits) - peak) / temperature), -1, keepdims=True)

    return Logprobs(logits, peak, jnp.log(over_blocks(logits.shape[-1], add, jnp.zeros(peak.shape))), temperature)


def _weighed(a: float, one: Slope, b: float | Array, two: Slope) -> Slope:
    return lambda block: a * one(block) + b * two(block) if a else b * two(block)
