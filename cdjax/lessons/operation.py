"""An operation of the paper as data; `assignment.py` has the operation with its task and views loaded."""

from collections.abc import Iterator
from dataclasses import dataclass

from cdjax.lessons.keep import Keep
from cdjax.tasks.inputs import Inputs
from cdjax.views.context import Context


@dataclass(frozen=True)
class Operation:
    """The paper's 4-tuple (D, T_teacher, T_student, f) for a task (section 2.1)."""

    task: str = ""  # a name in `cdjax.tasks`; empty: the inputs of `inputs.file`, without grades
    inputs: Inputs = Inputs()
    context: Context = Context()  # the teacher's
    student_context: Context = Context()
    keep: Keep = Keep()
    name: str = ""  # for plans and results; empty: the task's

    @property
    def title(self) -> str:
        """The name, or the task's, or "operation"."""
        return self.name or self.task or "operation"

    def problems(self) -> Iterator[str]:
        """Inputs, contexts and filters that need a task, if there is none."""
        yield from (f"inputs.{problem}" for problem in self.inputs.misfits(self.task))
        yield from (f"context.{problem}" for problem in self.context.misfits(self.task, teacher=True))
        yield from (f"student_context.{problem}" for problem in self.student_context.misfits(self.task))
        for number, part in enumerate(self.keep.filters):
            if "a task that grades answers" in getattr(part, "needs", ()) and not self.task:
                yield f"keep.filters.{number}: {part.kind} needs a task that grades answers, and task is ''"
