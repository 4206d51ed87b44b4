"""The demonstrations of the teacher's context as a source: the paper's baseline, gradient descent on the context."""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from cdjax.errors import UserError
from cdjax.lessons.sources.source import Known, Source

if TYPE_CHECKING:
    from cdjax.lessons.labelled import Solved


@dataclasses.dataclass(frozen=True)
class FromDemonstrations(Source):
    """Every demonstration of each operation's context, under the student's view, with its output as the answer."""

    kind: ClassVar[str] = "demonstrations"
    own_inputs: ClassVar[bool] = True

    def solved(self, known: Known) -> "list[Solved]":
        """The demonstrations of all operations. Raises UserError for an operation whose context has none."""
        from cdjax.lessons.labelled import solved
        from cdjax.views import render

        examples: list[Solved] = []
        for assignment, view in zip(known.operations, known.views, strict=True):
            shown = render.complete(assignment.views.teacher.context, assignment.task).demonstrations
            if not shown:
                raise UserError(
                    f"a source of kind 'demonstrations' has nothing to learn from operation {assignment.name!r}: its "
                    "context shows none"
                )
            examples += solved(view, shown)
        return examples
