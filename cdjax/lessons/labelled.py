"""Solved examples: the prompts of demonstrations under a view, with the ids of their outputs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Int32

from cdjax.errors import UserError
from cdjax.parts import at_least
from cdjax.tasks.task import Demonstration, Task
from cdjax.views.context import Context
from cdjax.views.view import Format, View

Solved: TypeAlias = tuple[Int32[np.ndarray, "_"], Int32[np.ndarray, "_"]]  # the ids of a prompt and of its answer


@dataclass(frozen=True)
class Labelled:
    """Solved examples of a task to fine-tune on, and the context around their inputs."""

    task: str
    count: int = at_least(0, 0)  # number of the task's demonstrations, its first ones
    view: Context = Context()  # around each input
    demonstrations: tuple[Demonstration, ...] = ()  # written out in the experiment, instead of a count

    def problems(self) -> Iterator[str]:
        """No task, no examples, or both a count and demonstrations; a view that the task does not serve."""
        if not self.task or (self.count < 1) != bool(self.demonstrations):
            yield (
                f"task must be named, with a count of at least 1 or demonstrations; got {self.task!r}, "
                f"{self.count} and {len(self.demonstrations)}"
            )
        yield from (f"view.{problem}" for problem in self.view.misfits(self.task))


def labelled(cfg: Labelled, task: Task, format: Format, budget: int) -> list[Solved]:
    """The solved examples of a configuration, under its view.

    Raises UserError if the task has fewer demonstrations than `count`, or a prompt is longer than the budget.
    """
    if cfg.count > (most := len(task.demonstrations)):
        raise UserError(f"{cfg.count} labelled examples asked of task {cfg.task!r}, which has {most}")
    return solved(View(format, cfg.view, task, budget), cfg.demonstrations or task.demonstrations[: cfg.count])


def solved(view: View, demonstrations: Sequence[Demonstration]) -> list[Solved]:
    """The prompt and the output of every demonstration whose prompt the view does not drop, as ids."""
    prompts, _ = view.prompts([demonstration.input for demonstration in demonstrations])
    fitting = set(prompts.inputs)
    answers = view.answers([demonstration for demonstration in demonstrations if demonstration.input in fitting])
    return list(zip(prompts.whole, answers, strict=True))
