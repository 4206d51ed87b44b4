"""Whether a student tells tasks by their inputs and not by what it is shown beside them (paper, Table 1)."""

from collections.abc import Sequence

from cdjax.model.decoder import Decoder
from cdjax.score.exam import Exam, Graded
from cdjax.tasks import Example


def wrong_association(exam: Exam, model: Decoder, expected: list[list[Example]], operations: Sequence[int]) -> Graded:
    """Answers to test inputs under another operation's student view, graded by their own task: low is good.

    Every input is asked once, an operation's inputs under all the others in turn.
    """
    shown: list[list[Example]] = [[] for _ in exam.assignments]
    own: list[list[int]] = [[] for _ in exam.assignments]
    for index, operation in enumerate(operations):
        for turn, example in enumerate(expected[operation]):
            view = operations[(index + 1 + turn % (len(operations) - 1)) % len(operations)]
            shown[view].append(example)
            own[view].append(operation)
    return exam.grade(model, "student", shown, title="under another view", operations=own)
