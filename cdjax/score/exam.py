"""Test inputs -> graded answers: teacher, student before and after, and baselines, all through the same code.

In: `Assignment`s and a model. Out: `Graded`, lists with an entry for each example.
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
    """The test that every model of a run takes: operations, examples, and how answers are drawn."""

    assignments: tuple[Assignment, ...]  # by operation
    mesh: jax.sharding.Mesh
    examples: int  # at most, of each task's test examples
    steps: int  # at most, tokens of an answer
    batch: int  # answers drawn at once

    def tests(self) -> list[list[Example]]:
        """The test examples of every operation."""
        return [list(assignment.task.test[: self.examples]) for assignment in self.assignments]

    def expected(self, teacher: Graded) -> list[list[Example]]:
        """The test examples; an example without an output gets the graded teacher's answer as its output."""
        asked = zip(teacher["operations"], teacher["inputs"], strict=True)
        by_input = dict(zip(asked, teacher["answers"], strict=True))
        return [
            [test if test.output else Example(test.input, by_input.get((number, test.input), "")) for test in tests]
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
        """The model's greedy answers to every operation's examples under `side`'s view, with their grades.

        The teacher's answers are cut by f, and are right where an example has no output. Where an example rejects an
        answer, the grade is 1 if its output is the more likely of the two, and `magnitudes` has the margin.
        `over_budget` counts examples left out because a prompt, of either side, is too long. `operations` is for
        examples shown under another operation's view: for each, the operation that it is of and graded by.
        """
        graded: Graded = {name: [] for name in COLUMNS} | {"over_budget": 0}
        lengths, magnitudes = [], []
        for number, (assignment, shown) in enumerate(zip(self.assignments, examples, strict=True)):
            if not shown:
                continue
            both = assignment.views.prompts([example.input for example in shown])
            view, prompts = getattr(assignment.views, side), getattr(both, side)
            graded["over_budget"] += both.dropped
            fitting = set(prompts.inputs)
            sources = zip(operations[number] if operations else [number] * len(shown), shown, strict=True)
            asked = [(operation, example) for operation, example in sources if example.input in fitting]
            rollouts = self.greedy(model, prompts, view.format.stops, title=title)
            preferences = preference.compare(
                model, view, prompts, [example for _, example in asked], self.mesh, self.batch
            )
            for rollout, prompt, preferred, (operation, example) in zip(
                rollouts, prompts.suffixes, preferences, asked, strict=True
            ):
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
                graded["grades"].append(preferred.grade if preferred else float(task.grade(example, answer)))
                magnitudes.append(preferred.magnitude if preferred else None)
                lengths.append(sum(len(context) + len(prompt) + len(rollout.ids) for context in prompts.contexts))
        graded["tokens"] = float(np.mean(lengths))
        known = any(magnitude is not None for magnitude in magnitudes)
        return graded | ({"magnitudes": magnitudes} if known else {})

    def greedy(
        self, model: Reader, prompts: Prompts, stops: np.ndarray, *, title: str, store: Store | None = None
    ) -> list[Rollout]:
        """The model's greedy answer to each prompt."""
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
    """A student that is measured, the exam, and the models that the student is compared with."""

    exam: Exam
    operations: tuple[int, ...]  # numbers of the operations that are measured
    expected: list[list[Example]]  # the test examples of every operation
    student: Reader
    before: Reader  # the student before training
    teacher: Reader  # the first round's
    answers: Path  # folder for answers of `before` and `teacher`, which are the same for all students
    batch: int  # pairs that are read together


def of_operations(examples: list[list[Example]], operations: Sequence[int]) -> list[list[Example]]:
    """The examples of these operations; the other operations have none."""
    return [shown if number in operations else [] for number, shown in enumerate(examples)]
