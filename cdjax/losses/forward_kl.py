"""KL(teacher || student), which is large where the teacher gives probability to outcomes unlikely for the student."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float

from cdjax.losses.loss import Divergence
from cdjax.parts import at_least


@dataclass(frozen=True)
class ForwardKL(Divergence):
    """The sum of p (log p - log q); from draws of the teacher, the mean of -log q, with the same expected gradient."""

    kind: ClassVar[str] = "forward_kl"
    needs: ClassVar[frozenset[str]] = frozenset({"probabilities", "draws"})
    derivative_sum: ClassVar[float | None] = -1.0  # minus the sum of p
    weight: float = at_least(0, 1.0)

    def pointwise(self, p: Float[Any, "*b"], q: Float[Any, "*b"]) -> Float[Any, "*b"]:
        from cdjax.losses.divergence import expected

        return expected(p, p - q)

    def of_draws(self, q: Float[Any, "*b"]) -> Float[Any, "*b"]:
        return -q
