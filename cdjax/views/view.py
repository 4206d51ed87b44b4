"""A side's format and its view of a task: T_teacher and T_student of the paper (section 2.1).

In: a tokenizer, Template, Context, Task. Out: Prompts of inputs, ids of written answers, the text of answers.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int, Int32

from cdjax.tasks.task import Demonstration, Task
from cdjax.views import encode
from cdjax.views.context import Context, Template
from cdjax.views.prompts import Prompts
from cdjax.views.render import Tokenizer


@dataclasses.dataclass(frozen=True)
class Format:
    """A model's tokenizer, the template of its prompts, and the ids that end its answers."""

    tokenizer: Tokenizer
    template: Template
    stops: Int32[np.ndarray, "_"]

    def body(self, ids: Int[np.ndarray, "_"]) -> str:
        """An answer's text up to the stop, with the part of its last token before the stop, as in ").\\n"."""
        if not len(ids) or ids[-1] not in self.stops:
            return encode.decode(self.tokenizer, ids)
        before, whole = encode.decode(self.tokenizer, ids[:-1]), encode.decode(self.tokenizer, ids)
        last, stop = whole[len(before) :], self.template.stop
        return before + last.partition(stop)[0] if stop and stop in last else before

    def text(self, ids: Int[np.ndarray, "_"]) -> str:
        """An answer's text up to the stop, without surrounding space."""
        return self.body(ids).strip()

    def output(self, ids: Int[np.ndarray, "_"]) -> str:
        """An answer's text up to the stop, without what the template puts around an output."""
        before, _, after = ("", "", "") if self.template.chat else self.template.answer.partition("{output}")
        return self.body(ids).removeprefix(before).removesuffix(after.partition(self.template.stop)[0])


@dataclasses.dataclass(frozen=True)
class View:
    """The format and context that a side reads a task's inputs in, with prompts of at most `budget` tokens."""

    format: Format
    context: Context
    task: Task
    budget: int
    overflow: Literal["error", "drop"] = "error"

    def prompts(self, inputs: Sequence[str]) -> tuple[Prompts, list[str]]:
        """The prompts of the inputs, and the inputs dropped because their prompt is too long; see `encode.prompts`."""
        return encode.prompts(
            self.format.tokenizer,
            self.format.template,
            self.context,
            self.task,
            inputs,
            budget=self.budget,
            overflow=self.overflow,
        )

    def answers(self, demonstrations: Sequence[Demonstration]) -> list[Int32[np.ndarray, "_"]]:
        """The ids of each demonstration's written answer, stop included; see `encode.answers`."""
        return encode.answers(self.format.tokenizer, self.format.template, self.context, self.task, demonstrations)


@dataclasses.dataclass(frozen=True)
class Shown:
    """Every side's prompts of the same inputs, in the same order."""

    teacher: Prompts
    student: Prompts
    dropped: int  # number of inputs without prompts, because a view of them is over its budget
    others: tuple[Prompts, ...] = ()  # of teachers after the first

    def rows(self, indices: Sequence[int]) -> "Shown":
        """Every side's prompts of these rows."""
        others = tuple(prompts.rows(indices) for prompts in self.others)
        return Shown(self.teacher.rows(indices), self.student.rows(indices), 0, others)


@dataclasses.dataclass(frozen=True)
class Views:
    """Every side's view of a task."""

    teacher: View
    student: View
    bare: View  # the student's context in the teacher's format
    others: tuple[View, ...] = ()  # of teachers after the first

    def prompts(self, inputs: Sequence[str]) -> Shown:
        """Every side's prompts of the inputs that fit all budgets."""
        views, fitting, tried = (self.teacher, self.student, *self.others), tuple(inputs), []
        for view in views:
            tried.append(view.prompts(fitting)[0])
            fitting = tried[-1].inputs
        # Prompts that still hold an input which a later view dropped are made again.
        teacher, student, *others = (
            prompts if prompts.inputs == fitting else view.prompts(fitting)[0]
            for view, prompts in zip(views, tried, strict=True)
        )
        return Shown(teacher, student, len(inputs) - len(fitting), tuple(others))

    @property
    def one_vocabulary(self) -> bool:
        """Whether the student has every teacher's vocabulary, and its stops include every teacher's stops."""
        student = self.student.format
        formats = [view.format for view in (self.teacher, *self.others)]
        return all(
            encode.same_vocabulary(format.tokenizer, student.tokenizer) and np.isin(format.stops, student.stops).all()
            for format in formats
        )
