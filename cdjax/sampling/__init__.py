"""Prompts -> answers, with log-probabilities and targets recorded for every token."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from cdjax.parts import above, at_least


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn."""

    temperature: float = at_least(0, 1.0)  # 0 is greedy
    top_k: int = at_least(0, 0)  # 0 keeps the whole vocabulary
    top_p: float = above(0, 1.0, most=1)
    per_input: int = at_least(1, 1)
    batch: int = at_least(1, 64)
    weights: Literal["full", "int8"] = "full"  # the teacher's, while it answers
    draft: int = at_least(0, 0)  # tokens that the student writes before the teacher reads them; 0: the teacher alone

    def problems(self) -> Iterator[str]:
        """Several answers to an input where all would be the same."""
        if self.per_input > 1 and self.temperature == 0:
            yield f"per_input={self.per_input} greedy samples are all the same; raise temperature"
