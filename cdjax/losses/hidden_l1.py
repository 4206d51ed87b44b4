"""The absolute distance of residual streams."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float

from cdjax.losses.loss import StateLoss


@dataclass(frozen=True)
class HiddenL1(StateLoss):
    """The mean of |student - teacher| over the stream's numbers.

    With `relative` it is divided by the mean of |teacher| at the same token and layer: layers with large streams do not
    outweigh the others. Deep context distillation (arXiv 2503.08727) divides by a norm of the teacher's layer as well,
    but over all tokens of a batch, so that its loss depends on how a batch is split.
    """

    kind: ClassVar[str] = "hidden_l1"
    relative: bool = False

    def between(self, student: Float[Any, "*b D"], teacher: Float[Any, "*b D"]) -> Float[Any, "*b"]:
        import jax.numpy as jnp

        difference = student - teacher
        # |difference| with derivative 0 for equal streams; jnp.abs has derivative 1 at 0.
        distance = (difference * jnp.sign(difference)).mean(-1)
        if not self.relative:
            return distance
        size = jnp.abs(teacher).mean(-1)
        return distance / jnp.where(size > 0, size, 1.0)
