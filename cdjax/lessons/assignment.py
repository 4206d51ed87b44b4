"""One operation of the paper, the 4-tuple (D, T_teacher, T_student, f), with all that it names loaded."""

import dataclasses
from collections.abc import Sequence

from cdjax.lessons import keep
from cdjax.lessons.keep import Keep, Kept
from cdjax.sampling.store import Rollout
from cdjax.tasks import Task, inputs
from cdjax.tasks.inputs import Collected, Inputs
from cdjax.views.view import Views


@dataclasses.dataclass(frozen=True)
class Assignment:
    """D is `inputs` of the task and of `others`, the views are those of both sides, f is `keep`."""

    name: str
    task: Task
    others: tuple[Task, ...]  # those of `inputs.tasks`
    inputs: Inputs
    views: Views
    keep: Keep

    def collect(self, written: Sequence[str], seed: int) -> Collected:
        """D: the pool, other tasks' pools, the file, the rule's draws and what the model wrote, joined."""
        return inputs.collect(self.task, self.inputs, seed=seed, written=written, others=self.others)

    def kept(self, rollouts: Sequence[Rollout]) -> tuple[list[Kept], dict[str, int]]:
        """What f and the filters leave of the answers, and how many were dropped for each reason."""
        return keep.keep(rollouts, self.views.teacher.format, self.keep, self.right if self.task.solve else None)

    def right(self, text: str, answer: str) -> bool:
        """Whether the task knows the answer to an input, and this is one that counts."""
        known = self.task.solve(text) if self.task.solve else None
        return known is not None and self.task.grade(known, answer) == 1.0
