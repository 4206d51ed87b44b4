"""The task's own answers, where it knows them: supervised fine-tuning under the student's view."""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from cdjax.errors import UserError
from cdjax.lessons.sources.source import Source
from cdjax.tasks.task import Demonstration

if TYPE_CHECKING:
    from cdjax.lessons.request import Request
    from cdjax.sampling.store import Rollout


@dataclasses.dataclass(frozen=True)
class FromLabels(Source):
    """What the task says to each input, one answer each; the teacher is asked for targets of it, if any are recorded.

    An input without a known answer has none; an answer of more tokens than `limits.completion` is cut there.
    """

    kind: ClassVar[str] = "labels"

    def answers(self, request: "Request") -> "list[Rollout]":
        """Raises UserError for a task that knows no answers."""
        solve = request.task.solve
        if solve is None:
            raise UserError(f"source.kind='labels' asks task {request.task.name!r} for answers, and it knows none")
        known = {text: solve(text) for text in request.shown.student.inputs}
        return request.written([Demonstration(text, example.output) for text, example in known.items() if example])
