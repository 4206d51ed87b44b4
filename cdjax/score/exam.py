"""Test inputs -> graded answers: teacher, before, after and baselines, all through one code path.

In: what is asked (Assignment) and a model. Out: `Graded`, lists with an entry an example.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import jax
import numpy as np

from cdjax.lessons import keep
from cdjax.lessons.assignment import Assignment
from cdjax.model.reader import Reader
from cdjax.progress import progress
from cdjax.sampling import Sampling, answers
from cdjax.sampling.store import Rollout, Store
from cdjax.sampling.targets.labels import Labels
from cdjax.score import preference
from cdjax.score.summary import COLUMNS, Graded
from cdjax.tasks import Example
from cdjax.views.prompts import Prompts

Side: TypeAlias = Literal["teacher", "student"]


@dataclasses.dataclass(frozen=True)
class Exam:
    """What every model of a run is asked when it is scored, and how its answers are drawn."""

    assignments: tuple[Assignment, ...]  # one an operation
    mesh: jax.sharding.Mesh
    examples: int  # test examples of a task at most
    steps: int  # tokens of an answer at most
    batch: int  # answers drawn at once

    def tests(self) -> list[list[Example]]:
        """The test examples of every operation."""
        return [list(assignment.task.test[: self.examples]) for assignment in self.assignments]

    def expected(self, teacher: Graded) -> list[list[Example]]:
        """The test examples; where a task knows no answers, those of the graded teacher are the right ones."""
        asked = zip(teacher["operations"], teacher["inputs"], strict=True)
        said = dict(zip(asked, teacher["answers"], strict=True))
        return [
            [test if test.output else Example(test.input, said.get((number, test.input), "")) for test in tests]
            for number, tests in enumerate(self.tests())
        ]

    def grade(
        self,
        model: Reader,
        side: Side,
        examples: list[list[Example]],
        *,
        title: str,
        operations: list[list[int]] | None = None,
    ) -> Graded:
        """Greedy answers to every operation's examples under one side's view; the teacher's go through f.

        Where no answer is known the teacher's own is right; where an example rejects one, the grade is whether its
        output is more likely, and `magnitudes` says by how much. `over_budget` counts examples left out, under both
        views. `operations` says which operation each example is of and graded as, where that is not the one under
        whose view it is shown.
        """
        graded: Graded = {name: [] for name in COLUMNS} | {"over_budget": 0}
        lengths, magnitudes = [], []
        for number, (assignment, shown) in enumerate(zip(self.assignments, examples, strict=True)):
            if not shown:
                continue
            views = assignment.views.prompts([example.input for example in shown])
            view, prompts = getattr(assignment.views, side), getattr(views, side)
            graded["over_budget"] += views.dropped
            fitting = set(prompts.inputs)
            sources = zip(operations[number] if operations else [number] * len(shown), shown, strict=True)
            asked = [(operation, example) for operation, example in sources if example.input in fitting]
            rollouts = self.greedy(model, prompts, view.format.stops, title=title)
            liked = preference.compare(model, view, prompts, [example for _, example in asked], self.mesh, self.batch)
            for rollout, row, like, (operation, example) in zip(rollouts, prompts.own, liked, asked, strict=True):
                answer = view.format.text(rollout.ids)
                if side == "teacher":
                    answer = keep.extract(assignment.keep, answer) or ""
                if side == "teacher" and not example.output:
                    example = Example(example.input, answer)
                task = self.assignments[operation].task
                graded["operations"].append(operation)
                graded["views"].append(number)
                graded["inputs"].append(rollout.input)
                graded["expected"].append(example.output)
                graded["answers"].append(answer)
                graded["grades"].append(like.grade if like else float(task.grade(example, answer)))
                magnitudes.append(like.magnitude if like else None)
                lengths.append(sum(len(context) + len(row) + len(rollout.ids) for context in prompts.contexts))
        graded["tokens"] = float(np.mean(lengths))
        known = any(magnitude is not None for magnitude in magnitudes)
        return graded | ({"magnitudes": magnitudes} if known else {})

    def greedy(
        self, model: Reader, prompts: Prompts, stops: np.ndarray, *, title: str, store: Store | None = None
    ) -> list[Rollout]:
        """The most likely answer to each prompt, token by token."""
        with progress(title, len(prompts.inputs)) as advance:
            return answers.sample(
                model,
                self.mesh,
                prompts,
                stops=stops,
                sampling=Sampling(temperature=0.0, batch=self.batch),
                targets=Labels(),
                steps=self.steps,
                seed=0,
                store=store,
                progress=advance,
            )


@dataclasses.dataclass(frozen=True)
class Subject:
    """A student that is measured, what it is asked, and the models that it is compared with."""

    exam: Exam
    operations: tuple[int, ...]  # those that it is asked
    expected: list[list[Example]]  # the test examples of every operation
    student: Reader
    before: Reader  # what the student began as
    teacher: Reader  # the first one
    answers: Path  # where the answers of the other two are kept: they are the same for all students
    batch: int  # texts of both sides that are read at once


def only(examples: list[list[Example]], operations: Sequence[int]) -> list[list[Example]]:
    """The examples of these operations; the others keep their place and have none."""
    return [shown if number in operations else [] for number, shown in enumerate(examples)]
