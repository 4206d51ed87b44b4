"""A view of many inputs as token ids: the context they share, and each one's own part."""

import dataclasses

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

    @property
    def contexts(self) -> tuple[Int32[np.ndarray, "_"], ...]:
        return (self.context, *self.others)

    @property
    def whole(self) -> tuple[Int32[np.ndarray, "_"], ...]:
        """Of an ensemble those with the first context."""
        return tuple(np.concatenate([self.context, own]) for own in self.own)
