"""What is measured of the teacher, of the student before and after a round, and of the baselines."""

import functools
from collections.abc import Sequence
from pathlib import Path

from flax import nnx

from cdjax.distill.opening import Run
from cdjax.score import distance
from cdjax.score.exam import Graded, only
from cdjax.score.wrong_association import wrong_association
from cdjax.tasks import Example


def score_original(run: Run) -> None:
    """Stages "teacher" and "before": the first teacher with its context, and what the student begins as without."""
    teacher, student = run.decoder(run.models.original), run.decoder(run.before)
    grade = functools.partial(run.exam.grade, teacher, "teacher", run.exam.tests(), title="teacher")
    run.journal.once("teacher", grade)

    def before() -> Graded:
        graded = run.exam.grade(student, "student", expected(run), title="before")
        graded["held_out_kl"] = _held_out_kl(run, run.before)
        return graded | _wrong_association(run, run.before, run.cfg.scored(-1))

    run.journal.once("before", before)


def score_student(run: Run, params: nnx.State, operations: Sequence[int]) -> Graded:
    """The student's graded answers to these operations without the context, `held_out_kl` and `forgetting`."""
    examples = only(expected(run), operations)
    graded = run.exam.grade(run.decoder(params), "student", examples, title="after")
    graded["held_out_kl"] = _held_out_kl(run, params, operations)
    graded["forgetting"] = _forgetting(run, params)
    return graded | _wrong_association(run, params, operations)


def expected(run: Run) -> list[list[Example]]:
    """The test examples; where a task knows no answers, the teacher's are what a student should agree with."""
    return run.exam.expected(run.journal.results()["teacher"])


def _held_out_kl(run: Run, params: nnx.State, operations: Sequence[int] | None = None) -> float | None:
    teacher, store = run.decoder(run.models.original), _store(run, "held_out")
    texts = distance.held_out(run.exam, teacher, run.cfg.score.held_out, store, operations)
    return distance.divergence(teacher, run.decoder(params), texts, run.mesh, run.cfg.update.batch)


def _forgetting(run: Run, params: nnx.State) -> float | None:
    before, store = run.decoder(run.before), _store(run, "unrelated")
    tokenizer, batch = run.format.tokenizer, run.cfg.sampling.batch
    texts = distance.unrelated(before, run.mesh, tokenizer, run.cfg.score.forgetting, batch, store)
    return distance.divergence(before, run.decoder(params), texts, run.mesh, run.cfg.update.batch)


def _wrong_association(run: Run, params: nnx.State, operations: Sequence[int]) -> Graded:
    if not run.cfg.score.wrong_association:
        return {}
    graded = wrong_association(run.exam, run.decoder(params), expected(run), operations)
    return {"wrong_association": graded}


def _store(run: Run, name: str) -> Path:
    return run.workdir / "rollouts" / name
