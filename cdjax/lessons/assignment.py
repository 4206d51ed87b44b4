"""One operation of the paper, the 4-tuple (D, T_teacher, T_student, f), with all that it names loaded."""

import dataclasses
from collections.abc import Sequence

from cdjax.lessons.keep import Keep
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
