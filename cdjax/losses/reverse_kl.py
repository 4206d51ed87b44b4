"""KL(student || teacher): the student says nothing that the teacher would not."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float

from cdjax.losses.loss import Divergence
from cdjax.parts import at_least


@dataclass(frozen=True)
class ReverseKL(Divergence):
    """Sum of q (log q - log p)."""

    kind: ClassVar[str] = "reverse_kl"
    weight: float = at_least(0, 1.0)

    def pointwise(self, p: Float[Any, "*b"], q: Float[Any, "*b"]) -> Float[Any, "*b"]:
        from cdjax.losses.divergence import expected

        return expected(q, q - p)
