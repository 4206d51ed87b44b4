"""Whether a student tells tasks by their inputs and not by what it is shown beside them (paper, Table 1)."""

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from cdjax.score.exam import Subject
    from cdjax.tasks import Example


@dataclasses.dataclass(frozen=True)
class WrongAssociation:
    """How often an input gets its own task's answer under another operation's student view: low is good.

    Every input is asked once, an operation's inputs under all the others in turn.
    """

    kind: ClassVar[str] = "wrong_association"
    title: ClassVar[str] = "Wrong association: right under another operation's view"
    needs: ClassVar[frozenset[str]] = frozenset({"several views"})

    def __call__(self, subject: "Subject") -> dict[str, Any]:
        operations = subject.operations
        shown: list[list[Example]] = [[] for _ in subject.exam.assignments]
        asked_of: list[list[int]] = [[] for _ in subject.exam.assignments]
        for index, operation in enumerate(operations):
            for turn, example in enumerate(subject.expected[operation]):
                view = operations[(index + 1 + turn % (len(operations) - 1)) % len(operations)]
                shown[view].append(example)
                asked_of[view].append(operation)
        graded = subject.exam.grade(subject.student, "student", shown, title="under another view", operations=asked_of)
        return graded | {"mean": float(np.mean(graded["grades"])), "unit": "share of test inputs"}
