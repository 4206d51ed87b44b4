"""The base classes of losses: divergences of distributions, losses over tokens, and losses over hidden states.

Log-probabilities are in nats; p is the teacher's and q the student's, as in GKD (arXiv 2306.13649).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float

from cdjax.model.spec import DecoderSpec
from cdjax.parts import at_least
from cdjax.sampling.targets.target import Recorded, Target


class Term:
    """A loss: a frozen dataclass with `kind`, its `weight` in the sum, and what it needs of the targets."""

    kind: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()  # any of these must be in the targets' `gives`; empty: no targets
    on_policy: ClassVar[bool] = False  # whether it is for tokens that the student wrote itself
    weight: float

    def misfits(self, student: DecoderSpec, teacher: DecoderSpec) -> Iterator[str]:
        """Yields a sentence that begins with a field's name for each requirement that the models do not meet."""
        yield from ()


class Divergence(Term):
    """A sum over outcomes, which the loss multiplies by the square of the targets' temperature."""

    needs: ClassVar[frozenset[str]] = frozenset({"probabilities"})
    # The sum of the derivatives by log q over all outcomes, if it is a constant; None: it must be added up.
    derivative_sum: ClassVar[float | None] = None

    def pointwise(self, p: Float[Any, "*b"], q: Float[Any, "*b"]) -> Float[Any, "*b"]:
        """The summands of outcomes with these log-probabilities, differentiable with respect to q.

        Either may be minus infinity, see `divergence.expected`; outcomes for which both are do not count.
        """
        raise NotImplementedError

    def of_draws(self, q: Float[Any, "*b"]) -> Float[Any, "*b"]:
        """The summands of the mean over draws, without terms of the teacher alone; if `needs` includes "draws"."""
        raise NotImplementedError


class TokenLoss(Term):
    """A function of the written tokens' log-probabilities under the student, at temperature 1."""

    def of_tokens(self, student: Float[Any, "n"], targets: Target, recorded: Recorded) -> Float[Any, "n"]:
        """The loss at every token, differentiable with respect to `student`."""
        raise NotImplementedError


@dataclass(frozen=True)
class StateLoss(Term):
    """A distance of the student's residual stream from the teacher's, at every kept token, in chosen layers.

    Layers are numbered as in `Decoder.states`: 0 is the embedding, -1 the last layer, before the final norm. Without
    `teacher_layers` both sides are read at the same numbers. The loss is the mean over pairs of layers, so that
    `weight` does not depend on their number.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"states"})
    layers: tuple[int, ...] = (-1,)  # the student's
    teacher_layers: tuple[int, ...] = ()  # the teacher's, in the order of the student's
    weight: float = at_least(0, 1.0)

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The pairs of layers that are compared: the student's number and the teacher's."""
        return tuple(zip(self.layers, self.teacher_layers or self.layers, strict=True))

    def problems(self) -> Iterator[str]:
        """Refuses layers that are none, or no pairs."""
        if not self.layers:
            yield "layers is empty: there is nothing to compare"
        if len(self.teacher_layers) not in (0, len(self.layers)):
            yield (
                f"teacher_layers={list(self.teacher_layers)} must be one for each of layers={list(self.layers)}, or "
                "empty for the same numbers"
            )

    def misfits(self, student: DecoderSpec, teacher: DecoderSpec) -> Iterator[str]:
        """Refuses layers that a model does not have, and streams of two widths."""
        for field, spec in (("layers", student), ("teacher_layers", teacher)):
            for number in getattr(self, field) or self.layers:
                if not -spec.layers - 1 <= number <= spec.layers:
                    yield f"{field} has {number}, and the model has {-spec.layers - 1} to {spec.layers}"
        if student.embed != teacher.embed:
            yield f"layers of width {student.embed} cannot be compared with the teacher's of width {teacher.embed}"

    def between(self, student: Float[Any, "*b D"], teacher: Float[Any, "*b D"]) -> Float[Any, "*b"]:
        """The distance at every token, from streams in float32; differentiable with respect to `student`.

        At masked tokens both streams are 0, and the distance does not count; it and its gradient must be finite.
        """
        raise NotImplementedError
