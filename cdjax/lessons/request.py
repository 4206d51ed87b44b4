"""A request to a source: the inputs to answer, and how their answers and the teacher's targets are made.

In: every side's prompts and models. Out: `Rollout`s; those that a model writes are saved on disk as they are finished.
"""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from cdjax.lessons.crossing import crossed
from cdjax.model.reader import Reader
from cdjax.sampling import Sampling, answers
from cdjax.sampling.reread import Teacher, reread
from cdjax.sampling.store import Rollout, Store
from cdjax.sampling.targets.labels import Labels
from cdjax.sampling.targets.target import Target
from cdjax.tasks.task import Demonstration, Task
from cdjax.views.view import Shown, Views


@dataclasses.dataclass(frozen=True)
class Request:
    """Inputs to answer in at most `steps` tokens; the source chooses the writer of each answer."""

    operation: int  # its number in the experiment
    task: Task
    views: Views
    shown: Shown
    teachers: tuple[Reader, ...]  # the first teacher writes; targets are the mean of all
    student: Reader
    mesh: jax.sharding.Mesh
    sampling: Sampling
    targets: Target
    steps: int
    seed: int
    folder: Path
    whole: bool = True  # whether these are all inputs of the operation, not a segment's share
    progress: Callable[[int], object] = lambda done: None

    def sample(self, side: Literal["teacher", "student"], rows: Sequence[int] | None = None) -> list[Rollout]:
        """A side's answers under its view, to all inputs or to those of `rows`, in the student's tokens.

        Answers of a single teacher have the targets that its decode steps record, and the student may draft them; all
        others are read by the teachers. If tokenizers differ, a teacher's answers cross as text, see crossing.py.
        """
        shown = self.shown if rows is None else self.shown.rows(rows)
        if not shown.teacher.inputs:
            return []
        teacher = side == "teacher"
        recorded = teacher and len(self.teachers) == 1
        view = self.views.teacher if teacher else self.views.student
        rollouts = answers.sample(
            self.teachers[0] if teacher else self.student,
            self.mesh,
            shown.teacher if teacher else shown.student,
            stops=view.format.stops,
            sampling=self.sampling,
            targets=self.targets if recorded else Labels(),
            steps=self.steps,
            seed=self.seed,
            student=answers.Student(self.student, shown.student) if recorded else None,
            store=Store(self.folder if rows is None else self.folder / side),
            progress=self.progress,
        )
        if teacher and not self.views.one_vocabulary:
            return crossed(rollouts, view, self.views.student, steps=self.steps)
        return rollouts if recorded else self.reread(rollouts)

    def written(self, solved: Sequence[Demonstration]) -> list[Rollout]:
        """Known answers to inputs as rollouts, with the teachers' targets; an input may have several.

        Their log-probabilities are unknown, and recorded as 0. Answers to other inputs do not count; an answer of more
        than `steps` tokens is cut there, as a model's would be, and has not stopped.
        """
        to_input: dict[str, list[Demonstration]] = defaultdict(list)
        for example in solved:
            to_input[example.input].append(example)
        solved = [example for text in self.shown.student.inputs for example in to_input[text]]
        counts, rollouts = Counter[str](), []
        for example, ids in zip(solved, self.views.student.answers(solved), strict=True):
            sample, stopped = counts[example.input], len(ids) <= self.steps
            counts[example.input] += 1
            ids = ids[: self.steps]
            unknown, undrafted = np.zeros(len(ids), np.float32), np.zeros(len(ids), np.int32)
            rollouts.append(Rollout(example.input, sample, ids, unknown, stopped, {}, undrafted))
        self.progress(len(rollouts))
        return self.reread(rollouts)

    def reread(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """The rollouts with the teachers' targets, each teacher under its view."""
        prompts = (self.shown.teacher, *self.shown.others)
        teachers = [Teacher(reader, shown) for reader, shown in zip(self.teachers, prompts, strict=True)]
        batch, seed = self.sampling.batch, self.seed
        return reread(rollouts, teachers, self.targets, self.mesh, steps=self.steps, batch=batch, seed=seed)
