"""Prompts -> answers, with log-probabilities and targets recorded for every token."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Sampling:
    """The settings with which the teacher's answers are drawn."""

    temperature: float = 1.0  # 0 is greedy
    top_k: int = 0  # 0 keeps the whole vocabulary
    top_p: float = 1.0
    per_input: int = 1
    batch: int = 64
    weights: Literal["full", "int8"] = "full"  # the teacher's, while it answers
    draft: int = 0  # tokens that the student writes before the teacher reads them; 0: the teacher writes each itself
