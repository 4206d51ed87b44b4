"""The teacher's full distribution, computed in every update."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Int

from cdjax.errors import UserError
from cdjax.parts import above
from cdjax.sampling.targets.target import Recorded, Target


@dataclass(frozen=True)
class Full(Target):
    """Records nothing: every update runs the teacher again, for its logits and its hidden states."""

    kind: ClassVar[str] = "full"
    gives: ClassVar[frozenset[str]] = frozenset({"probabilities", "states"})
    temperature: float = above(0, 1.0)

    def certain(self, ids: Int[Any, "C"], vocab: int) -> Recorded:
        """Raises UserError: the teacher's full distribution cannot be recorded in advance."""
        raise UserError("targets.kind='full' reads the teacher again, which has no part in answers written by others")
