"""The teacher as a source: the paper's context distillation."""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from cdjax.lessons.sources.source import Source

if TYPE_CHECKING:
    from cdjax.lessons.request import Request
    from cdjax.sampling.store import Rollout


@dataclasses.dataclass(frozen=True)
class FromTeacher(Source):
    """The teacher's answers under its view, with targets recorded as it samples them."""

    kind: ClassVar[str] = "teacher"
    writers: ClassVar[frozenset[str]] = frozenset({"teacher"})

    def answers(self, request: "Request") -> "list[Rollout]":
        return request.sample("teacher")
