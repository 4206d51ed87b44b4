"""The inputs of the losses over logits."""

import dataclasses

import jax
from jaxtyping import Array, Bool, Float, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Positions:
    """Hidden states, targets and weights at every completion position."""

    hidden: Float[Array, "*b D"]  # the student's
    teacher: Float[Array, "*b E"] | None  # the teacher's, if an update reads it
    ids: Int[Array, "*b"]  # the written tokens
    weight: Float[Array, "*b"]  # in the loss; 0 masks a position
    targets: dict[str, Array]  # recorded of the teacher, [*b, ...]
    temperature: Float[Array, "*b"] | None = None  # None: the targets' temperature at every position

    @property
    def real(self) -> Bool[Array, "*b"]:
        """True for positions that count."""
        return self.weight != 0
