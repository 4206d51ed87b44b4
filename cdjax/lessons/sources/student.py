"""The student as a source, whose answers the teacher grades: on-policy distillation (GKD, arXiv 2306.13649).

Others have called it OPCD, SDFT or OPSD.
"""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from cdjax.lessons.sources.source import Source

if TYPE_CHECKING:
    from cdjax.lessons.request import Request
    from cdjax.sampling.store import Rollout


@dataclasses.dataclass(frozen=True)
class FromStudent(Source):
    """The student's answers under its view, with the teacher's distribution under its view at each of their tokens.

    With `update.every` the student writes anew as it learns; otherwise it writes once, before the first update.
    """

    kind: ClassVar[str] = "student"
    writers: ClassVar[frozenset[str]] = frozenset({"student"})

    def answers(self, request: "Request") -> "list[Rollout]":
        return request.sample("student")
