"""Hidden states and soft targets at every completion position -> sums of the loss, and its gradient on the way.

Logits exist for one tile of positions at a time, and masked positions have none: on every device the real ones come
first, and the loop ends with them. The forward pass leaves behind the gradient with respect to the hidden states and
the vocabulary's weights, which the backward pass only scales: no product is made twice.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float, Int

from cdjax import config, parallel
from cdjax.distill import losses
from cdjax.model.decoder import Decoder, Readout

POSITIONS = 128  # the fewest positions of a tile
OUTCOMES = 4096  # the fewest outcomes of a block, the part of the vocabulary whose gradient is made at a time


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Positions:
    """What the loss reads at every completion position. Soft targets that are not used may have width 0."""

    hidden: Float[Array, "*b D"]  # the student's
    teacher: Float[Array, "*b D"] | None  # the teacher's, for full targets
    ids: Int[Array, "*b"]
    real: Bool[Array, "*b"]  # the one loss mask
    top_ids: Int[Array, "*b k"]
    top_logprobs: Float[Array, "*b k"]  # at the objective's temperature
    draws: Int[Array, "*b n"]  # at the objective's temperature


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
    temperature: float

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


def loss(
    student: Decoder,
    teacher: Decoder | None,
    positions: Positions,
    *,
    objective: config.Objective,
    over: Float[Array, ""] | Int[Array, ""] | int = 1,
    tile: int | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss, and float32 sums over the real ones of [B, C] positions: `loss`, what it is made of, their `count`.

    `loss` is alpha * cross_entropy + (1 - alpha) * temperature^2 * divergence; `cross_entropy` is on `ids` at
    temperature 1; `kl` is KL(teacher || student) at the objective's temperature, for full and top_k targets.
    What is differentiated is the sum of `loss` divided by `over`, with respect to the student's hidden states and the
    weights of its logits. Every device makes the logits of `tile` positions at a time; by default they are a quarter
    as large as the gradient of the weights.
    """
    check(objective, positions)
    full = teacher is not None and objective.targets == "full" and objective.kind != "cross_entropy"
    wanted = teacher.readout() if teacher is not None and full else None
    parts = jax.tree.map(_apart, vars(positions) | {"teacher": positions.teacher if full else None})
    length = parts["real"].shape[1]
    tiles = -(-length // (tile or max(student.spec.embed // 4, POSITIONS)))
    tile = -(-length // tiles)
    parts = jax.tree.map(functools.partial(_filled, length=tiles * tile), parts)
    scale = 1 / jnp.float32(over)
    return _loss((objective, tile), parts.pop("hidden"), student.readout(), wanted, parts, scale)


def check(objective: config.Objective, positions: Positions | None = None) -> None:
    """Raises UserError for an objective that cannot be computed, or not from these positions."""
    if objective.kind == "cross_entropy":
        return
    if objective.targets == "sampled" and objective.kind != "forward_kl":
        raise config.UserError(
            f"objective.kind={objective.kind} needs the teacher's probabilities, and targets=sampled has only ids "
            "drawn from them; use kind=forward_kl, or targets=top_k or full"
        )
    if not (objective.temperature > 0 and 0 <= objective.alpha <= 1):
        raise config.UserError(
            f"objective.temperature={objective.temperature} must be above 0, and alpha={objective.alpha} in 0 .. 1"
        )
    if positions is None:
        return
    width = {"top_k": positions.top_ids.shape[-1], "sampled": positions.draws.shape[-1]}
    if (objective.targets == "full" and positions.teacher is None) or width.get(objective.targets) == 0:
        raise config.UserError(f"objective.targets={objective.targets}, but the rollouts were recorded without them")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss(how, hidden, out, wanted, parts, scale):
    return _run(how, hidden, out, wanted, parts, scale, gradient=False, of_weights=False)[0]


def _forward(how, hidden, out, wanted, parts, scale):
    of_weights = out.weights.perturbed  # not those of a student whose adapter is all that trains
    given = jax.tree.map(lambda x: x.value, (hidden, out, wanted, parts, scale))
    found, change = _run(how, *given, gradient=True, of_weights=of_weights)
    return found, (change, given[1])


def _backward(how, saved, by):
    (hidden, weights), out = saved
    if isinstance(by[0], SymbolicZero):
        return (None,) * 5
    by_out = None if weights is None else dataclasses.replace(out, weights=weights * by[0])
    return (hidden * by[0]).astype(hidden.dtype), by_out, None, None, None


_loss.defvjp(_forward, _backward, symbolic_zeros=True)


def _run(how, hidden, out, wanted, parts, scale, *, gradient, of_weights):
    """Loss and sums, and d loss / d (hidden states [devices, M, D], weights), None where they are not asked for."""
    objective, tile = how
    given, wanted = out.gathered(), None if wanted is None else wanted.gathered()
    real = parts["real"]
    first = jnp.argsort(~real, 1, stable=True)

    def one(rows, hidden, parts, change):
        """Of one device: the sums over a tile, and `change` with the tile's part added."""
        at = _blank(jax.tree.map(lambda x: x[rows], Positions(hidden=hidden, **parts)))
        terms, slope = _terms(given, wanted, at, objective)
        found = {name: jnp.sum(term, where=at.real) for name, term in terms.items()}
        if gradient:
            weight = jnp.where(at.real, scale, 0.0)[:, None]
            by_hidden, by_weights = _pulled(given, at.hidden, lambda block: weight * slope(block), change[1])
            change = change[0].at[rows].set(by_hidden.astype(hidden.dtype), unique_indices=True), by_weights
        return found, change

    def add(i, carry):
        total, change = carry
        rows = jax.lax.dynamic_slice_in_dim(first, i * tile, tile, 1)
        found, change = parallel.on_each(one, rows, hidden, parts, change)
        return jax.tree.map(jnp.add, total, found), change

    axes = ("batch", *_axes(out.layout, "act_embed"))
    by_weights = parallel.constrain(jnp.zeros((len(real), *out.weights.shape)), *axes) if of_weights else None
    change = (jnp.zeros_like(hidden), by_weights) if gradient else None
    shapes, _ = jax.eval_shape(functools.partial(parallel.on_each, one), first[:, :tile], hidden, parts, change)
    start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, change = jax.lax.fori_loop(0, -(-real.sum(1).max() // tile), add, (start, change))
    if of_weights:
        change = change[0], parallel.constrain(change[1].sum(0), *_axes(out.layout, "embed"))
    sums = jax.tree.map(jnp.sum, total)
    return (sums["loss"] * scale, sums), change


def _pulled(given: Readout, hidden: Array, slope: Slope, by_weights: Array | None) -> tuple[Array, Array | None]:
    """d loss / d hidden of a tile [n, D], and `by_weights` with the tile's d loss / d weights added."""
    layout, axis = given.layout, given.layout.index("v")
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def add(block: Block, change: tuple[Array, Array | None]) -> tuple[Array, Array | None]:
        by_hidden, by_weights = change
        by_logits = slope(block).astype(given.dtype)
        by_hidden += product(f"nv,{layout}->nd", by_logits, block.of(given.weights, axis))
        if by_weights is not None:
            here = block.of(by_weights, axis) + product(f"nv,nd->{layout}", by_logits, hidden)
            by_weights = block.put(by_weights, here, axis)
        return by_hidden, by_weights

    return _over_blocks(given.weights.shape[axis], add, (jnp.zeros(hidden.shape), by_weights))


def _terms(given: Readout, wanted: Readout | None, at: Positions, objective: config.Objective) -> tuple[dict, Slope]:
    """Every term of the objective at each position of a tile, and the slope of `loss`."""
    logits = parallel.constrain(given(at.hidden), "length", "vocab")
    q = _logprobs(logits, 1.0)
    ids = at.ids[:, None]
    hard, slope = -q.at(ids)[:, 0], q.towards(ids, -jnp.ones(ids.shape))
    terms = {"loss": hard, "cross_entropy": hard, "count": jnp.ones(hard.shape)}
    if objective.kind != "cross_entropy":
        heated = q if objective.temperature == 1 else _logprobs(logits, objective.temperature)
        soft, soft_slope, extra = _soft(heated, wanted, at, objective)
        a, b = objective.alpha, (1 - objective.alpha) * objective.temperature**2
        terms |= extra | {"loss": a * hard + b * soft if a else b * soft}
        slope = _weighed(a, slope, b, soft_slope)
    if given.soft_cap is None:
        return terms, slope
    return terms, lambda block: slope(block) * (1 - jnp.square(block.of(logits) / given.soft_cap))


def _soft(q: Logprobs, wanted: Readout | None, at: Positions, objective: config.Objective) -> tuple:
    """The divergence from the kind of targets there is, its slope, and the metrics that come with it."""
    if objective.targets == "full":
        assert wanted is not None and at.teacher is not None
        teacher = parallel.constrain(wanted(at.teacher), "length", "vocab")
        return _full(_logprobs(teacher, objective.temperature), q, objective)
    if objective.targets == "sampled":
        share = jnp.full(at.draws.shape, 1 / at.draws.shape[-1])
        return -q.at(at.draws).mean(-1), q.towards(at.draws, -share), {}
    top = q.at(at.top_ids)
    buckets = functools.partial(losses.bucket_divergence, at.top_logprobs, beta=objective.beta)
    soft, back = jax.vjp(functools.partial(buckets, kind=objective.kind), top)
    extra = {
        "kl": buckets(top, kind="forward_kl"),
        "teacher_top_mass": jnp.exp(at.top_logprobs).sum(-1),
        "student_top_mass": jnp.exp(top).sum(-1),
    }
    return soft, q.towards(at.top_ids, *back(jnp.ones(soft.shape))), extra


def _full(p: Logprobs, q: Logprobs, objective: config.Objective) -> tuple[Array, Slope, dict]:
    """The divergence between two rows of logits, its slope with respect to the student's, and forward KL."""
    kind, beta = objective.kind, objective.beta

    def add(block: Block, total: tuple[Array, ...]) -> tuple[Array, ...]:
        parts = (
            losses.token_divergence(p.of(block), q.of(block), kind=kind, beta=beta),
            losses.token_divergence(p.of(block), q.of(block), kind="forward_kl", beta=beta),
            losses.pull(p.of(block), q.of(block), kind=kind, beta=beta),
        )
        return jax.tree.map(jnp.add, total, parts)

    def slope(block: Block) -> Array:
        return losses.slope(p.of(block), q.of(block), pull, kind=kind, beta=beta) / q.temperature

    soft, kl, pull = _over_blocks(q.logits.shape[-1], add, (jnp.zeros(len(q.logits)),) * 3)
    return soft, slope, {"kl": kl}


def _logprobs(logits: Array, temperature: float) -> Logprobs:
    peak = logits.max(-1, keepdims=True)

    def add(block: Block, total: Array) -> Array:
        return total + jnp.sum(jnp.exp((block.of(logits) - peak) / temperature), -1, keepdims=True)

    return Logprobs(logits, peak, jnp.log(_over_blocks(logits.shape[-1], add, jnp.zeros(peak.shape))), temperature)


def _weighed(a: float, one: Slope, b: float, two: Slope) -> Slope:
    return lambda block: a * one(block) + b * two(block) if a else b * two(block)


def _over_blocks(vocab: int, step: Callable[[Block, Any], Any], start: Any) -> Any:
    """`step` of every block and what the last one returned; equal blocks, or one where devices share the vocabulary.

    What is made of a block stays in the cache; arrays of [n, V] beside the logits would cost more than their memory.
    """
    most = 1 if parallel.parts("vocab") > 1 else max(vocab // OUTCOMES, 1)
    blocks = next(blocks for blocks in range(most, 0, -1) if vocab % blocks == 0)
    size = vocab // blocks
    return jax.lax.fori_loop(0, blocks, lambda i, carry: step(Block(i * size, size), carry), start)


def _axes(layout: str, embed: str) -> tuple[str, ...]:
    return tuple({"v": "vocab", "d": embed}[letter] for letter in layout)


def _blank(at: Positions) -> Positions:
    """The same with zeros at masked positions: nothing that stands there may reach a value or a gradient."""

    def one(x: Array) -> Array:
        return jnp.where(at.real.reshape(at.real.shape + (1,) * (x.ndim - 1)), x, jnp.zeros((), x.dtype))

    return jax.tree.map(one, at)


def _apart(x: Array) -> Array:
    """[B, C, ...] -> [devices, B / devices * C, ...]."""
    x = parallel.apart(x)
    return x.reshape(len(x), x.shape[1] * x.shape[2], *x.shape[3:])


def _filled(x: Array, length: int) -> Array:
    """Zeros, which are masked positions, up to so many a device."""
    return jnp.pad(x, ((0, 0), (0, length - x.shape[1]), *((0, 0),) * (x.ndim - 2)))
