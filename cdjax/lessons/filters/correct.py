"""Drops answers that the task grades as wrong."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from cdjax.errors import UserError
from cdjax.lessons.filters import Evidence, Kept
from cdjax.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class Correct:
    """Keeps answers with a full grade, where the task knows the answer to an input; the reason is "wrong".

    Raises UserError for a task that knows no answers.
    """

    kind: ClassVar[str] = "correct"
    needs: ClassVar[frozenset[str]] = frozenset({"a task that grades answers"})

    def refuse(self, answers: Sequence[Kept], evidence: Evidence) -> list[str | None]:
        task = evidence.task
        if task.solve is None:
            raise UserError(f"keep.filters has 'correct', and the answers of task {task.name!r} are not known")
        return [None if _right(task, answer) else "wrong" for answer in answers]


def _right(task: Task, answer: Kept) -> bool:
    """Whether the task gives the answer its full grade; an input without a known answer has no right one."""
    example = task.solve(answer.rollout.input) if task.solve else None
    return example is not None and task.grade(example, answer.text) == 1.0
