"""GKD's mixture: the student answers a share of the inputs, the teacher the rest (arXiv 2306.13649, lambda)."""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from cdjax.lessons.sources.source import Source
from cdjax.parts import between

if TYPE_CHECKING:
    from cdjax.lessons.request import Request
    from cdjax.sampling.store import Rollout


@dataclasses.dataclass(frozen=True)
class Mixture(Source):
    """The student answers each input with probability `student`, GKD's lambda, drawn anew in every segment.

    With 0 and 1 the answers are those of the sources "teacher" and "student".
    """

    kind: ClassVar[str] = "mixture"
    writers: ClassVar[frozenset[str]] = frozenset({"teacher", "student"})
    student: float = between(0, 1, 0.5)

    def answers(self, request: "Request") -> "list[Rollout]":
        draws = np.random.default_rng(request.seed).random(len(request.shown.student.inputs))
        teacher, student = (np.flatnonzero(chosen).tolist() for chosen in (draws >= self.student, draws < self.student))
        return request.sample("teacher", teacher) + request.sample("student", student)
