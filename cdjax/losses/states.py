"""Residual streams of both sides in chosen layers -> the losses over them, left to automatic differentiation.

In: what `Reader.states` gives of each side at the kept tokens. Out: what `fused.loss` gives of the losses over logits.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cdjax.losses import named
from cdjax.losses.loss import StateLoss, Term


def layers(losses: Sequence[Term]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The layers whose streams the losses compare: the student's, and the teacher's."""
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

    Each is multiplied by a token's weight in `loss` and nowhere else, and tokens of weight 0 do not count: nothing that
    stands there, not even NaN, reaches a value or a gradient. What is differentiated is the sum of `loss` divided by
    `over`, with respect to the student's streams.
    """
    real = weight != 0

    def kept(stream: Float[Array, "X C D"]) -> Float[Array, "X C D"]:
        return jnp.where(real[..., None], stream.astype(jnp.float32), 0.0)

    total, sums = jnp.zeros(()), {}
    for name, term in named(losses, StateLoss).items():
        distances = [term.between(kept(student[own]), kept(teacher[other])) for own, other in term.pairs]
        distance = sum(distances[1:], distances[0]) / len(distances)
        sums[name] = jnp.sum(distance, where=real)
        total += term.weight * jnp.sum(weight * distance, where=real)
    return total / over, sums | {"loss": total}
