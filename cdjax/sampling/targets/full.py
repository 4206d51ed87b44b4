"""The whole vocabulary, from the teacher itself."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Int

from cdjax.errors import UserError
from cdjax.parts import above
from cdjax.sampling.targets.target import Recorded, Target


@dataclass(frozen=True)
class Full(Target):
    """Nothing recorded: every update reads the teacher again, and has its logits and its hidden states."""

    kind: ClassVar[str] = "full"
    gives: ClassVar[frozenset[str]] = frozenset({"probabilities", "states"})
    temperature: float = above(0, 1.0)

    def certain(self, ids: Int[Any, "C"], vocab: int) -> Recorded:
        """Raises UserError: what the teacher says is not for anybody else to write down."""
        raise UserError("targets.kind='full' reads the teacher again, which has no part in answers written by others")
