"""KL(student || teacher), which is large where the student gives probability to outcomes unlikely for the teacher."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float

from cdjax.losses.loss import Divergence
from cdjax.parts import at_least


@dataclass(frozen=True)
class ReverseKL(Divergence):
    """The sum of q (log q - log p)."""

    kind: ClassVar[str] = "reverse_kl"
    weight: float = at_least(0, 1.0)

    def pointwise(self, p: Float[Any, "*b"], q: Float[Any, "*b"]) -> Float[Any, "*b"]:
        from cdjax.losses.divergence import expected

        return expected(q, q - p)
