"""The cosine distance of residual streams, which does not depend on their lengths."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float

from cdjax.losses.loss import StateLoss


@dataclass(frozen=True)
class HiddenCosine(StateLoss):
    """1 - cos(student, teacher), as in DistilBERT (arXiv 1910.01108).

    Computed as (|d|^2 - (|student| - |teacher|)^2) / (2 |student| |teacher|) with d = student - teacher, and the
    difference of lengths from d, too: equal streams have a distance and a gradient of exactly 0, and the distance at
    small angles is accurate. A stream of zeros is taken to have length 1.
    """

    kind: ClassVar[str] = "hidden_cosine"

    def between(self, student: Float[Any, "*b D"], teacher: Float[Any, "*b D"]) -> Float[Any, "*b"]:
        import jax.numpy as jnp

        def length(x: Float[Any, "*b D"]) -> Float[Any, "*b"]:
            square = jnp.square(x).sum(-1)
            return jnp.sqrt(jnp.where(square > 0, square, 1.0))

        p, q, difference = length(teacher), length(student), student - teacher
        longer = (difference * (student + teacher)).sum(-1) / (q + p)  # q - p
        return (jnp.square(difference).sum(-1) - jnp.square(longer)) / (2 * q * p)
