"""Filters: answers that are dropped before the student learns from the others.

A filter is a frozen dataclass with `refuse(answers, evidence)`, which returns for each answer the reason to drop it, or
None. It sees all answers together, so that it can compare them; filters run one after the other, each on the answers
that are left.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeAlias

import numpy as np
from jaxtyping import Int32

from cdjax.parts import Kinds
from cdjax.sampling.store import Rollout
from cdjax.tasks.task import Task

FILTERS = Kinds(
    "filter",
    finished="cdjax.lessons.filters.finished:Finished",
    non_empty="cdjax.lessons.filters.non_empty:NonEmpty",
    correct="cdjax.lessons.filters.correct:Correct",
    duplicate="cdjax.lessons.filters.duplicate:Duplicate",
    majority="cdjax.lessons.filters.majority:Majority",
    length_ratio="cdjax.lessons.filters.length_ratio:LengthRatio",
    phrases="cdjax.lessons.filters.phrases:Phrases",
    executes="cdjax.lessons.filters.executes:Executes",
)
Filter: TypeAlias = Annotated[Any, FILTERS]


@dataclasses.dataclass(frozen=True)
class Kept:
    """An answer and the part of it that the student must produce."""

    rollout: Rollout
    indices: Int32[np.ndarray, "C"]  # into the rollout's tokens, the stop token among them if the teacher stopped
    text: str  # of these tokens, without the stop


def _no_model() -> Mapping[str, Rollout]:
    raise ValueError("a filter asks for bare answers, and there is no model here that could give them")


@dataclasses.dataclass(frozen=True)
class Evidence:
    """The facts that a filter may use beside the answers."""

    task: Task
    bare: Callable[[], Mapping[str, Rollout]] = _no_model  # the teacher's answer to each input, without the context
