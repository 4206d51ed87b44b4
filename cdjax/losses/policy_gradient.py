"""The score-function (REINFORCE) gradient: written tokens become more likely in proportion to their advantage."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float

from cdjax.losses.loss import TokenLoss
from cdjax.parts import at_least
from cdjax.sampling.targets.target import Recorded, Target


@dataclass(frozen=True)
class PolicyGradient(TokenLoss):
    """-advantage log q of the written token, whose gradient by the logits is advantage (q - onehot).

    REINFORCE (Williams 1992) for tokens that the student wrote, without an importance weight for the updates since:
    answers should be written anew often (`update.every`). The advantage is a constant.
    """

    kind: ClassVar[str] = "policy_gradient"
    on_policy: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"advantage"})
    weight: float = at_least(0, 1.0)

    def of_tokens(self, student: Float[Any, "n"], targets: Target, recorded: Recorded) -> Float[Any, "n"]:
        import jax

        return -jax.lax.stop_gradient(targets.advantage(recorded, student)) * student
