"""A view of many inputs as token ids: the context they share, and each one's own part."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Prompt i is `context` followed by `own[i]`: together exactly the ids of its rendered text.

    In an ensemble the same holds for each of `contexts`: input i has as many prompts as there are contexts.
    """

    inputs: tuple[str, ...]
    context: Int32[np.ndarray, "P"]  # may be empty
    own: tuple[Int32[np.ndarray, "_"], ...]  # never empty
    others: tuple[Int32[np.ndarray, "_"], ...] = ()  # an ensemble's contexts after the first

    def rows(self, indices: Sequence[int]) -> "Prompts":
        """The prompts of these rows, after the same contexts."""
        inputs, own = tuple(self.inputs[index] for index in indices), tuple(self.own[index] for index in indices)
        return dataclasses.replace(self, inputs=inputs, own=own)

    @property
    def contexts(self) -> tuple[Int32[np.ndarray, "_"], ...]:
        return (self.context, *self.others)

    @property
    def whole(self) -> tuple[Int32[np.ndarray, "_"], ...]:
        """Of an ensemble those with the first context."""
        return tuple(np.concatenate([self.context, own]) for own in self.own)
