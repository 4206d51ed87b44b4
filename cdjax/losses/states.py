"""Residual streams of both sides in chosen layers -> the losses over states, with jax's gradient.

In: the streams of `Reader.states` at the kept tokens. Out: a loss and sums of the same form as those of `fused.loss`.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cdjax.losses import named
from cdjax.losses.loss import StateLoss, Term


def layers(losses: Sequence[Term]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The layers whose streams the losses compare: the student's numbers, and the teacher's."""
    pairs = [pair for loss in named(losses, StateLoss).values() for pair in loss.pairs]
    student, teacher = ({pair[side] for pair in pairs} for side in (0, 1))
    return tuple(sorted(student)), tuple(sorted(teacher))


def loss(
    student: dict[int, Float[Array, "X C D"]],
    teacher: dict[int, Float[Array, "X C D"]],
    weight: Float[Array, "X C"],
    *,
    losses: Sequence[Term],
    over: Float[Array, ""] | Int[Array, ""] | int = 1,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss, and float32 sums over the kept tokens: `loss`, and each loss by its name without its weight.

    Only the sum `loss` is weighted by the tokens' weights. Tokens of weight 0 do not count: their streams, even NaN, do
    not reach a value or a gradient. The returned loss is the sum `loss` divided by `over`, differentiable with respect
    to the student's streams.
    """
    real = weight != 0

    def kept(stream: Float[Array, "X C D"]) -> Float[Array, "X C D"]:
        return jnp.where(real[..., None], stream.astype(jnp.float32), 0.0)

    total, sums = jnp.zeros(()), {}
    for name, term in named(losses, StateLoss).items():
        distances = [term.between(kept(student[i]), kept(teacher[j])) for i, j in term.pairs]
        distance = sum(distances[1:], distances[0]) / len(distances)
        sums[name] = jnp.sum(distance, where=real)
        total += term.weight * jnp.sum(weight * distance, where=real)
    return total / over, sums | {"loss": total}
