"""The interface of targets; a kind overrides what it does differently. Dimension letters are those of model/spec.py."""

from collections.abc import Iterator
from typing import Any, ClassVar

from jaxtyping import Float, Int

Recorded = dict[str, Any]  # arrays with a leading axis of rows or positions


class Target:
    """Targets that record nothing: the base of all kinds."""

    kind: ClassVar[str]
    # What a loss may need: "probabilities" of outcomes, "draws" from them, "states" of the teacher that is read again
    # in every update, or an "advantage" of each token.
    gives: ClassVar[frozenset[str]] = frozenset()
    temperature: float = 1.0  # of the teacher's distribution and of the student's that is compared with it

    @property
    def uniforms(self) -> int:
        """The number of random numbers that `observe` uses for a row: u."""
        return 0

    def buffers(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of each recorded array at one position, by name."""
        return {}

    def observe(self, logits: Float[Any, "B V"], ids: Int[Any, "B"], uniforms: Float[Any, "B u"]) -> Recorded:
        """The arrays, [B, ...], recorded of rows of logits, of the ids that follow, and of random numbers in [0, 1)."""
        return {}

    def certain(self, ids: Int[Any, "C"], vocab: int) -> Recorded:
        """The arrays, on the host, that `observe` would record of a teacher with probability 1 for each of the ids.

        Raises UserError if they cannot be recorded.
        """
        return {}

    def misfits(self, vocab: int) -> Iterator[str]:
        """Yields a sentence, beginning with a field's name, for every setting that the vocabulary is too small for."""
        yield from ()

    def listed(self, recorded: Recorded) -> Int[Any, "n k"]:
        """The ids at which the student's log-probabilities are needed, for kinds that record draws or probabilities."""
        raise NotImplementedError

    def outcomes(self, recorded: Recorded, student: Float[Any, "n k"]) -> tuple[Float[Any, "n o"], Float[Any, "n o"]]:
        """Log-probabilities of the same outcomes under teacher and student, for kinds that record probabilities.

        `student` has the student's log-probabilities of the listed ids; the outcomes are differentiable in it.
        """
        raise NotImplementedError

    def metrics(self, recorded: Recorded, student: Float[Any, "n k"]) -> dict[str, Float[Any, "n"]]:
        """Metrics of every position, beside the losses, from the student's log-probabilities of the listed ids."""
        return {}

    def advantage(self, recorded: Recorded, student: Float[Any, "n"]) -> Float[Any, "n"]:
        """How much better each token is than others, for kinds that give an "advantage".

        `student` has the tokens' log-probabilities under the student.
        """
        raise NotImplementedError
