"""The share of inputs answered rightly under another operation's view (wrong association: paper, Table 1)."""

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from cdjax.score.exam import Subject
    from cdjax.tasks import Example


@dataclasses.dataclass(frozen=True)
class WrongAssociation:
    """The share of test inputs that get their task's answer under another operation's student view: low is good.

    A student with a high share tells tasks by their inputs and ignores the view. Every input is asked once, an
    operation's inputs under the views of all other operations in turn.
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
