"""An operation of the paper, the 4-tuple (D, T_teacher, T_student, f), with its task, views and keep rule loaded."""

import dataclasses
from collections.abc import Sequence

from cdjax.lessons.keep import Keep
from cdjax.tasks import Task, inputs
from cdjax.tasks.inputs import Collected, Inputs
from cdjax.views.view import Views


@dataclasses.dataclass(frozen=True)
class Assignment:
    """An operation: D is `inputs` of the task and of `others`, the templates are `views`, f and the filters `keep`."""

    name: str
    task: Task
    others: tuple[Task, ...]  # named in `inputs.tasks`
    inputs: Inputs
    views: Views
    keep: Keep

    def collect(self, written: Sequence[str], seed: int) -> Collected:
        """D: the task's pool, other tasks' pools, a file, the rule's draws and what a model wrote, joined."""
        return inputs.collect(self.task, self.inputs, seed=seed, written=written, others=self.others)
