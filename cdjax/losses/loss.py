"""What every kind of loss has: it is a divergence of distributions, a function of tokens, or one of hidden states.

Log-probabilities are in nats; p is the teacher's and q the student's, as in GKD (arXiv 2306.13649).
"""

from typing import Any, ClassVar

from jaxtyping import Float

from cdjax.sampling.targets.target import Recorded, Target


class Term:
    """A frozen dataclass with `kind`, a `weight` in the sum, and what it needs of the targets: one of `needs`."""

    kind: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()  # one of these must be in the targets' `gives`; empty: none
    weight: float


class Divergence(Term):
    """A sum over outcomes; in the loss it is multiplied with the square of the targets' temperature, too."""

    needs: ClassVar[frozenset[str]] = frozenset({"probabilities"})
    # What the derivatives by log q sum to over all outcomes, where that is known: it need not be added up.
    derivative_sum: ClassVar[float | None] = None

    def pointwise(self, p: Float[Any, "*b"], q: Float[Any, "*b"]) -> Float[Any, "*b"]:
        """What outcomes with these log-probabilities add, differentiable with respect to q.

        Either may be minus infinity, see `divergence.expected`; outcomes for which both are do not count.
        """
        raise NotImplementedError

    def of_draws(self, q: Float[Any, "*b"]) -> Float[Any, "*b"]:
        """For those that do with draws: what one adds to the mean, but for what depends on the teacher alone."""
        raise NotImplementedError


class TokenLoss(Term):
    """A function of the written tokens' log-probabilities under the student, at temperature 1."""

    def of_tokens(self, student: Float[Any, "n"], targets: Target, recorded: Recorded) -> Float[Any, "n"]:
        """The loss at every token, differentiable with respect to `student`."""
        raise NotImplementedError
