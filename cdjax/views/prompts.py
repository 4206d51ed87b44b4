"""A view of many inputs as token ids: the context that they share, and each row's suffix after it."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Prompts that begin alike: prompt i is `context` followed by `suffixes[i]`, the exact ids of its rendered text.

    In an ensemble the same holds for each of `contexts`: input i has as many prompts as there are contexts.
    """

    inputs: tuple[str, ...]
    context: Int32[np.ndarray, "P"]  # may be empty
    suffixes: tuple[Int32[np.ndarray, "_"], ...]  # each of at least one token
    others: tuple[Int32[np.ndarray, "_"], ...] = ()  # an ensemble's contexts after the first

    def rows(self, indices: Sequence[int]) -> "Prompts":
        """The prompts of these rows, after the same contexts."""
        inputs = tuple(self.inputs[index] for index in indices)
        return dataclasses.replace(self, inputs=inputs, suffixes=tuple(self.suffixes[index] for index in indices))

    @property
    def contexts(self) -> tuple[Int32[np.ndarray, "_"], ...]:
        """The context, or an ensemble's contexts."""
        return (self.context, *self.others)

    @property
    def whole(self) -> tuple[Int32[np.ndarray, "_"], ...]:
        """Every prompt as a single array; of an ensemble the prompts with the first context."""
        return tuple(np.concatenate([self.context, suffix]) for suffix in self.suffixes)
