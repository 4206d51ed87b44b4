"""Positions -> the loss, what it is made of, and its gradient on the way.

Logits exist for one tile of positions at a time, and masked positions have none: on every device the real ones come
first, and the loop ends with them. The forward pass leaves behind the gradient with respect to the hidden states and
the vocabulary's weights, which the backward pass only scales: no product is made twice.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, Int

from cdjax import parallel
from cdjax.errors import UserError
from cdjax.losses import check, reads_teacher
from cdjax.losses.logits import Block, Slope, over_blocks, terms
from cdjax.losses.loss import StateLoss, Term
from cdjax.losses.positions import Positions
from cdjax.model.decoder import Decoder, Readout
from cdjax.sampling.targets.target import Target

FEWEST, MOST = 128, 1024  # positions of a tile: every tile costs a pass over the gradient of the weights


def loss(
    student: Decoder,
    teacher: Decoder | None,
    positions: Positions,
    *,
    targets: Target,
    losses: tuple[Term, ...],
    over: Float[Array, ""] | Int[Array, ""] | int = 1,
    tile: int | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss, and float32 sums over [B, C] positions: `loss`, what it is made of, and their `count`.

    `loss` is the sum of the losses over logits, see logits.py, times a position's weight; everything else is summed
    without it, and positions of weight 0 do not count. `cross_entropy` is on `ids` at temperature 1;
    `kl` is KL(teacher || student) at the targets' temperature, for targets that give probabilities. Losses over states
    are left to states.py: of those alone, `loss` is 0 and has no gradient.
    What is differentiated is the sum of `loss` divided by `over`, with respect to the student's hidden states and the
    weights of its logits. Every device makes the logits of `tile` positions at a time; see `positions_of_a_tile`.
    """
    check(losses, targets)
    live = reads_teacher(losses, targets)
    if (live and positions.teacher is None) or not targets.buffers().keys() <= positions.targets.keys():
        raise UserError(f"targets.kind={targets.kind!r}, but the answers were recorded without them")
    wanted = teacher.readout() if teacher is not None and live else None
    parts = jax.tree.map(_apart, vars(positions) | {"teacher": None if wanted is None else positions.teacher})
    length = parts["weight"].shape[1]
    tiles = -(-length // (tile or positions_of_a_tile(student.spec.embed)))
    tile = -(-length // tiles)
    parts = jax.tree.map(functools.partial(_filled, length=tiles * tile), parts)
    scale = 1 / jnp.float32(over)
    hidden, readout = parts.pop("hidden"), student.readout()
    if all(isinstance(term, StateLoss) for term in losses):
        hidden, readout = jax.lax.stop_gradient((hidden, readout))  # no products for a gradient of zeros
    return _loss((targets, losses, tile), hidden, readout, wanted, parts, scale)


def positions_of_a_tile(embed: int) -> int:
    """As many as give most of the speed of larger ones, with logits no larger than the gradient of the weights."""
    return min(max(embed * 3 // 4, FEWEST), MOST)


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
    targets, losses, tile = how
    given, wanted = out.gathered(), None if wanted is None else wanted.gathered()
    real = parts["weight"] != 0
    first = jnp.argsort(~real, 1, stable=True)

    def one(rows, hidden, parts, change):
        """Of one device: the sums over a tile, and `change` with the tile's part added."""
        at = _blank(jax.tree.map(lambda x: x[rows], Positions(hidden=hidden, **parts)))
        found, slope = terms(given, wanted, at, targets, losses)
        found["loss"] = at.weight * found["loss"]
        found = {name: jnp.sum(term, where=at.real) for name, term in found.items()}
        if gradient:
            weight = (at.weight * scale)[:, None]
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

    return over_blocks(given.weights.shape[axis], add, (jnp.zeros(hidden.shape), by_weights))


def _axes(layout: str, embed: str) -> tuple[str, ...]:
    return tuple({"v": "vocab", "d": embed}[letter] for letter in layout)


def _blank(at: Positions) -> Positions:
    """The same with zeros at masked positions: nothing that stands there may reach a value or a gradient.

    A temperature of 0 would: it is 1 there.
    """

    def one(x: Array) -> Array:
        return jnp.where(at.real.reshape(at.real.shape + (1,) * (x.ndim - 1)), x, jnp.zeros((), x.dtype))

    blank = jax.tree.map(one, at)
    if at.temperature is None:
        return blank
    return dataclasses.replace(blank, temperature=jnp.where(at.real, at.temperature, 1.0))


def _apart(x: Array) -> Array:
    """[B, C, ...] -> [devices, B / devices * C, ...]."""
    x = parallel.apart(x)
    return x.reshape(len(x), x.shape[1] * x.shape[2], *x.shape[3:])


def _filled(x: Array, length: int) -> Array:
    """Zeros, which are masked positions, up to so many a device."""
    return jnp.pad(x, ((0, 0), (0, length - x.shape[1]), *((0, 0),) * (x.ndim - 2)))
