"""The task's known answers as a source: supervised fine-tuning under the student's view."""

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
    """The answer that the task knows to each input, with the teacher's targets if any are recorded.

    Inputs without a known answer are left out; an answer of more tokens than `limits.completion` is cut there.
    """

    kind: ClassVar[str] = "labels"
    needs: ClassVar[frozenset[str]] = frozenset({"known answers"})

    def most(self, per_input: int) -> int:
        return 1

    def answers(self, request: "Request") -> "list[Rollout]":
        """The task's answers to inputs of the request. Raises UserError for a task that knows none."""
        solve = request.task.solve
        if solve is None:
            raise UserError(f"the source 'labels' asks task {request.task.name!r} for answers, and it knows none")
        known = {text: solve(text) for text in request.shown.student.inputs}
        return request.written([Demonstration(text, example.output) for text, example in known.items() if example])
