"""What every kind of targets has; a kind overrides what it does differently.

n is a number of positions, k the ids listed at each, o the outcomes that two distributions are compared over.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

from jaxtyping import Float, Int

Recorded = dict[str, Any]  # arrays with a leading axis of rows or positions


class Target:
    """Nothing recorded."""

    kind: ClassVar[str]
    # What a loss may need: "probabilities" of outcomes, "draws" from them, "states" of the teacher that is read again
    # in every update, or an "advantage" of each token.
    gives: ClassVar[frozenset[str]] = frozenset()
    temperature: float = 1.0  # of the teacher's distribution and of the student's that is compared with it

    @property
    def uniforms(self) -> int:
        """How many random numbers `observe` uses a row."""
        return 0

    def buffers(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of what is recorded of one position, by name."""
        return {}

    def observe(self, logits: Float[Any, "B V"], ids: Int[Any, "B"], uniforms: Float[Any, "B n"]) -> Recorded:
        """What is recorded of rows of logits, given the ids that follow and numbers in [0, 1): arrays [B, ...]."""
        return {}

    def certain(self, ids: Int[Any, "C"], vocab: int) -> Recorded:
        """On the host, what `observe` would record of a teacher that is certain of these ids.

        Raises UserError if that cannot be recorded.
        """
        return {}

    def misfits(self, vocab: int) -> Iterator[str]:
        """A sentence, beginning with a field's name, for all that a vocabulary of this size does not have."""
        yield from ()

    def listed(self, recorded: Recorded) -> Int[Any, "n k"]:
        """The ids whose probabilities under the student are asked for: of kinds that record draws or probabilities."""
        raise NotImplementedError

    def outcomes(self, recorded: Recorded, student: Float[Any, "n k"]) -> tuple[Float[Any, "n o"], Float[Any, "n o"]]:
        """Log-probabilities of the same outcomes under the teacher and under the student, given its of the listed ids.

        Of kinds that record probabilities; differentiable with respect to `student`.
        """
        raise NotImplementedError

    def metrics(self, recorded: Recorded, student: Float[Any, "n k"]) -> dict[str, Float[Any, "n"]]:
        """What is told of every position beside the losses, given the student's log-probabilities of the listed ids."""
        return {}

    def advantage(self, recorded: Recorded) -> Float[Any, "n"]:
        """How much better each token is than the student's own choice: of kinds that give an "advantage"."""
        raise NotImplementedError
