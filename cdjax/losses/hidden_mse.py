"""The squared distance of residual streams."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float

from cdjax.losses.loss import StateLoss


@dataclass(frozen=True)
class HiddenMSE(StateLoss):
    """The mean of (student - teacher)^2 over the stream's numbers, as in TinyBERT (arXiv 1909.10351).

    TinyBERT learns a projection of the student's stream beside it; this loss compares streams of equal width.
    """

    kind: ClassVar[str] = "hidden_mse"

    def between(self, student: Float[Any, "*b D"], teacher: Float[Any, "*b D"]) -> Float[Any, "*b"]:
        import jax.numpy as jnp

        return jnp.square(student - teacher).mean(-1)
