"""What the losses over logits read."""

import dataclasses

import jax
from jaxtyping import Array, Bool, Float, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Positions:
    """What is known at every completion position."""

    hidden: Float[Array, "*b D"]  # the student's
    teacher: Float[Array, "*b E"] | None  # the teacher's, of width E, where it is read in the update
    ids: Int[Array, "*b"]
    weight: Float[Array, "*b"]  # in the loss; 0 where there is no token: the one loss mask
    targets: dict[str, Array]  # what was recorded of the teacher, [*b, ...]
    temperature: Float[Array, "*b"] | None = None  # None: the targets' own at every position

    @property
    def real(self) -> Bool[Array, "*b"]:
        """Which positions count."""
        return self.weight != 0
