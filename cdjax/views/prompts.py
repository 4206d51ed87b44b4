"""A view of many inputs as token ids: the context they share, and each one's own part."""

import dataclasses

import numpy as np
from jaxtyping import Int32


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Prompt i is `context` followed by `own[i]`: together exactly the ids of its rendered text."""

    inputs: tuple[str, ...]
    context: Int32[np.ndarray, "P"]  # may be empty
    own: tuple[Int32[np.ndarray, "_"], ...]  # never empty

    @property
    def whole(self) -> tuple[Int32[np.ndarray, "_"], ...]:
        return tuple(np.concatenate([self.context, own]) for own in self.own)
