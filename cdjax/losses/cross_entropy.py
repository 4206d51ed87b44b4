"""Cross-entropy: the negative log-likelihood of the written tokens."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float

from cdjax.losses.loss import TokenLoss
from cdjax.parts import at_least
from cdjax.sampling.targets.target import Recorded, Target


@dataclass(frozen=True)
class CrossEntropy(TokenLoss):
    """-log q of the written token."""

    kind: ClassVar[str] = "cross_entropy"
    weight: float = at_least(0, 1.0)

    def of_tokens(self, student: Float[Any, "n"], targets: Target, recorded: Recorded) -> Float[Any, "n"]:
        return -student
