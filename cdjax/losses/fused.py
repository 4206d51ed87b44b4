"""Positions -> the losses over logits, their sums by name, and their gradient, computed in the same pass.

Logits exist for a tile of positions at a time, and masked positions have none: on every device the real positions come
first, and the loop ends with them. The forward pass saves the gradient with respect to the hidden states and the
vocabulary's weights, which the backward pass only scales: no product is computed twice.
"""

import dataclasses
import functools
from typing import Any, NamedTuple, TypeAlias

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

Sums: TypeAlias = dict[str, Float[Array, "..."]]  # by metric: of a device, of all [devices], or added up
Fields: TypeAlias = dict[str, Any]  # the fields of `Positions` but the hidden states, each [devices, n, ...]
# The derivatives by the hidden states [devices, n, D], and by the head's weights if they train.
Gradient: TypeAlias = tuple[Float[Array, "..."], Float[Array, "..."] | None]


class Options(NamedTuple):
    """The arguments of the loss that are static when it is compiled."""

    targets: Target
    losses: tuple[Term, ...]
    tile: int  # positions of a tile


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
    """The loss, and float32 sums over [B, C] positions: `loss`, each metric by its name, and `count`.

    The sum `loss` is of the losses over logits, see logits.py, times a position's weight; the other sums are without
    weights. Positions of weight 0 do not count. `cross_entropy` is of `ids` at temperature 1; `kl` is
    KL(teacher || student) at the targets' temperature, for targets that give probabilities. Losses over states are left
    to states.py: of those alone, `loss` is 0 and has no gradient.
    The returned loss is the sum `loss` divided by `over`, differentiable with respect to the student's hidden states
    and the weights of its logits. Every device computes the logits of `tile` positions at a time, see
    `positions_of_a_tile`. Raises UserError for targets that do not serve the losses or were not recorded.
    """
    check(losses, targets)
    read_again = reads_teacher(losses, targets)
    if (read_again and positions.teacher is None) or not targets.buffers().keys() <= positions.targets.keys():
        raise UserError(f"targets.kind={targets.kind!r}, but the answers were recorded without them")
    teacher_head = teacher.readout() if teacher is not None and read_again else None
    fields = vars(positions) | {"teacher": None if teacher_head is None else positions.teacher}
    fields = jax.tree.map(_apart, fields)
    length = fields["weight"].shape[1]
    tiles = -(-length // (tile or positions_of_a_tile(student.spec.embed)))
    tile = -(-length // tiles)
    fields = jax.tree.map(functools.partial(_filled, length=tiles * tile), fields)
    hidden, head = fields.pop("hidden"), student.readout()
    if all(isinstance(term, StateLoss) for term in losses):
        hidden, head = jax.lax.stop_gradient((hidden, head))  # no products for a gradient of zeros
    return _loss(Options(targets, losses, tile), hidden, head, teacher_head, fields, 1 / jnp.float32(over))


def positions_of_a_tile(embed: int) -> int:
    """The number of positions in a tile: larger tiles are little faster, and need more memory for their logits."""
    return min(max(embed * 3 // 4, FEWEST), MOST)


# The loss with a custom rule of differentiation. Without it, jax would keep the logits of every tile for the backward
# pass, or compute them twice. `_forward` computes the gradient while it has a tile's logits, for a cotangent of 1, and
# `_backward` multiplies it by the cotangent: right for a scalar loss only, so the sums beside it have no gradient.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss(
    options: Options,
    hidden: Float[Array, "devices n D"],
    head: Readout,
    teacher_head: Readout | None,
    fields: Fields,
    scale: Float[Array, ""],
) -> tuple[Float[Array, ""], Sums]:
    return _run(options, hidden, head, teacher_head, fields, scale, gradient=False, of_weights=False)[0]


def _forward(
    options: Options, hidden: Any, head: Any, teacher_head: Any, fields: Any, scale: Any
) -> tuple[tuple[Float[Array, ""], Sums], tuple[Gradient, Readout]]:
    """The loss, and the residuals of the backward pass, from leaves with `value` and `perturbed` (differentiated)."""
    of_weights = head.weights.perturbed  # false for a student whose adapter alone trains
    values = jax.tree.map(lambda leaf: leaf.value, (hidden, head, teacher_head, fields, scale))
    result, gradient = _run(options, *values, gradient=True, of_weights=of_weights)
    assert gradient is not None
    return result, (gradient, values[1])


def _backward(options: Options, saved: tuple[Gradient, Readout], cotangents: Any) -> tuple[Any, ...]:
    """The cotangents of `_loss`'s arguments, from that of the loss; those of the sums are ignored."""
    ((by_hidden, by_weights), head), by_loss = saved, cotangents[0]
    if isinstance(by_loss, SymbolicZero):
        return (None,) * 5
    by_head = None if by_weights is None else dataclasses.replace(head, weights=by_weights * by_loss)
    return (by_hidden * by_loss).astype(by_hidden.dtype), by_head, None, None, None


_loss.defvjp(_forward, _backward, symbolic_zeros=True)


def _run(
    options: Options,
    hidden: Float[Array, "devices n D"],
    head: Readout,
    teacher_head: Readout | None,
    fields: Fields,
    scale: Float[Array, ""],
    *,
    gradient: bool,
    of_weights: bool,
) -> tuple[tuple[Float[Array, ""], Sums], Gradient | None]:
    """The loss and its sums, and if `gradient` its gradient, which includes the head's weights if `of_weights`."""
    targets, losses, tile = options
    axes = _axes(head.layout, "embed")
    whole, teacher = head.gathered(), None if teacher_head is None else teacher_head.gathered()
    real = fields["weight"] != 0
    order = jnp.argsort(~real, 1, stable=True)  # of each device's positions: those that count come first

    def of_tile(indices: Array, hidden: Array, fields: Fields, total: Gradient | None) -> tuple[Sums, Gradient | None]:
        """A device's sums over the positions of a tile, and `total` with the tile's gradient added."""
        positions = _blank(jax.tree.map(lambda x: x[indices], Positions(hidden=hidden, **fields)))
        sums, slope = terms(whole, teacher, positions, targets, losses)
        sums["loss"] = positions.weight * sums["loss"]
        sums = {name: jnp.sum(term, where=positions.real) for name, term in sums.items()}
        if total is not None:
            by_hidden, by_weights = total
            weight = (positions.weight * scale)[:, None]
            added, by_weights = _pulled(whole, positions.hidden, lambda block: weight * slope(block), by_weights)
            # A position is in one tile only: its gradient is set, and not added to.
            total = by_hidden.at[indices].set(added.astype(hidden.dtype), unique_indices=True), by_weights
        return sums, total

    def add(number: Array, carry: tuple[Sums, Gradient | None]) -> tuple[Sums, Gradient | None]:
        sums, total = carry
        indices = jax.lax.dynamic_slice_in_dim(order, number * tile, tile, 1)
        tile_sums, total = parallel.on_each(of_tile, indices, hidden, fields, total)
        return jax.tree.map(jnp.add, sums, tile_sums), total

    # Every device adds up a gradient of the whole weights; they are summed, and split as the weights are, at the end.
    apart = ("batch", *_axes(head.layout, "act_embed"))
    by_weights = parallel.constrain(jnp.zeros((len(real), *head.weights.shape)), *apart) if of_weights else None
    total = (jnp.zeros_like(hidden), by_weights) if gradient else None
    shapes, _ = jax.eval_shape(functools.partial(parallel.on_each, of_tile), order[:, :tile], hidden, fields, total)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    # The number of tiles that the device with most real positions fills, known at run time: padding costs no logits.
    sums, total = jax.lax.fori_loop(0, -(-real.sum(1).max() // tile), add, (zeros, total))
    if total is not None and total[1] is not None:
        total = total[0], parallel.constrain(total[1].sum(0), *axes)
    sums = jax.tree.map(jnp.sum, sums)
    return (sums["loss"] * scale, sums), total


def _pulled(
    head: Readout, hidden: Float[Array, "n D"], slope: Slope, by_weights: Float[Array, "..."] | None
) -> tuple[Float[Array, "n D"], Float[Array, "..."] | None]:
    """d loss / d hidden of a tile, and `by_weights` with the tile's d loss / d weights added.

    `slope` is d loss / d logits; the weights' axes are `head.layout`.
    """
    layout, axis = head.layout, head.layout.index("v")
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def add(block: Block, total: tuple[Array, Array | None]) -> tuple[Array, Array | None]:
        by_hidden, by_weights = total
        by_logits = slope(block).astype(head.dtype)
        by_hidden += product(f"nv,{layout}->nd", by_logits, block.of(head.weights, axis))
        if by_weights is not None:
            added = block.of(by_weights, axis) + product(f"nv,nd->{layout}", by_logits, hidden)
            by_weights = block.put(by_weights, added, axis)
        return by_hidden, by_weights

    return over_blocks(head.weights.shape[axis], add, (jnp.zeros(hidden.shape), by_weights))


def _axes(layout: str, embed: str) -> tuple[str, ...]:
    """The logical axes of weights of this layout; `embed` is the name of the hidden states' axis."""
    return tuple({"v": "vocab", "d": embed}[letter] for letter in layout)


def _blank(positions: Positions) -> Positions:
    """The positions with zeros for all masked values, which must not reach a loss or a gradient.

    A masked temperature is 1: logits are divided by it.
    """
    real = positions.real

    def blank(x: Array) -> Array:
        return jnp.where(real.reshape(real.shape + (1,) * (x.ndim - 1)), x, jnp.zeros((), x.dtype))

    blanked = jax.tree.map(blank, positions)
    if positions.temperature is None:
        return blanked
    return dataclasses.replace(blanked, temperature=jnp.where(real, positions.temperature, 1.0))


def _apart(x: Array) -> Array:
    """[B, C, ...] -> [devices, B / devices * C, ...]."""
    x = parallel.apart(x)
    return x.reshape(len(x), x.shape[1] * x.shape[2], *x.shape[3:])


def _filled(x: Array, length: int) -> Array:
    """[devices, n, ...] -> [devices, length, ...], with zeros, which are masked positions."""
    return jnp.pad(x, ((0, 0), (0, length - x.shape[1]), *((0, 0),) * (x.ndim - 2)))
