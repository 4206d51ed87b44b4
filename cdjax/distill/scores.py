"""What is measured of the teacher, of the student before and after a round, and of the baselines."""

import functools
from collections.abc import Sequence

from cdjax.distill.opening import Run
from cdjax.model.reader import Reader
from cdjax.score.exam import Graded, Subject, of_operations
from cdjax.students import Trainable
from cdjax.tasks import Example


def score_original(run: Run) -> None:
    """Stages "teacher" and "before": the first teacher with its context, and what the student begins as without."""
    teacher, student = run.teaching(None)[0], run.before
    grade = functools.partial(run.exam.grade, teacher, "teacher", run.exam.tests(), title="teacher")
    run.journal.once("teacher", grade)

    def before() -> Graded:
        graded = run.exam.grade(student, "student", expected(run), title="before")
        return graded | {"measures": _measured(run, run.before, run.cfg.scored(-1), after_training=False)}

    run.journal.once("before", before)


def score_student(run: Run, params: Trainable, operations: Sequence[int]) -> Graded:
    """The student's graded answers to these operations without the context, and its `measures`."""
    examples = of_operations(expected(run), operations)
    student = run.student.reader(params)
    graded = run.exam.grade(student, "student", examples, title="after")
    return graded | {"measures": _measured(run, student, operations, after_training=True)}


def expected(run: Run) -> list[list[Example]]:
    """The test examples; where a task knows no answers, the teacher's are what a student should agree with."""
    return run.exam.expected(run.journal.results()["teacher"])


def _measured(run: Run, student: Reader, operations: Sequence[int], *, after_training: bool) -> dict[str, Graded]:
    """What every measure of the experiment returns, by its kind; some say nothing of an untrained student."""
    subject = Subject(
        exam=run.exam,
        operations=tuple(operations),
        expected=expected(run),
        student=student,
        before=run.before,
        teacher=run.teaching(None)[0],
        answers=run.workdir / "rollouts",
        batch=run.cfg.training.update.batch,
    )
    measures = [
        measure for measure in run.cfg.score.measures if after_training or not getattr(measure, "after_training", False)
    ]
    return {measure.kind: measure(subject) for measure in measures}
