"""The paper's algorithm, whole: the teacher answers, f keeps, the student learns, and rounds combine operations.

Every stage is written down when it ends (`journal.json`), samples shard by shard (`rollouts/`), training by Orbax
(`checkpoints/`): a run that is killed anywhere and started again ends as if it had never been killed.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax

from cdjax.config import Experiment
from cdjax.distill import opening, plan, stages, succession, updates
from cdjax.distill.opening import Run
from cdjax.distill.scores import expected, score_original, score_student
from cdjax.errors import UserError
from cdjax.model.files import prefix
from cdjax.report import page, results
from cdjax.students import Trainable


def run(cfg: Experiment, workdir: str | Path, *, profile: bool = False) -> dict[str, Any]:
    """Runs an experiment, or continues it in the same directory; returns what `results.json` holds.

    `profile` leaves traces of a few steps of sampling and of the update in the directory's `profile/`.
    """
    run = opening.open(cfg, Path(workdir), profile=profile)
    with jax.set_mesh(run.mesh):
        run = with_teachers(run)
        score_original(run)
        for seed in cfg.seeds:
            distil(run, seed)
            for number in range(len(cfg.baselines)):
                train_baseline(run, seed, number)
    return _finish(run)


def evaluate(cfg: Experiment, workdir: str | Path) -> dict[str, Any]:
    """Scores without distilling: the teacher (made first, if need be), before, and what the directory has of the rest.

    A later `run` in the same directory continues from here.
    """
    run = opening.open(cfg, Path(workdir))
    with jax.set_mesh(run.mesh):
        score_original(with_teachers(run))
    return _finish(run)


def with_teachers(run: Run) -> Run:
    """The run whose teachers have been trained, as far as the experiment says so."""
    for number, teacher in enumerate(run.cfg.teachers):
        if teacher.training is not None:
            made = plan.teacher(run, number, teacher.training)
            params = stages.distil(made, None, made.learner.side.fresh(number))
            trained = dataclasses.replace(run.teachers[number], params=params)
            run = dataclasses.replace(run, teachers=(*run.teachers[:number], trained, *run.teachers[number + 1 :]))
    return run


def distil(run: Run, seed: int) -> None:
    """All rounds of the plan for one seed, from the first that has not been scored."""
    planned = plan.rounds(run, seed)
    remaining = [planned_round for planned_round in planned if not run.journal.done(planned_round.stage("score"))]
    if not remaining:
        return
    done, teacher = planned[: -len(remaining)], None
    student = updates.restore(done[-1]) if done else run.begin(seed, run.cfg.training.start)
    if done:
        teacher = succession.successor(done[-1], teacher, student)
    for current in remaining:
        student = stages.distil(current, teacher, student)
        if current is not planned[-1]:
            teacher = succession.successor(current, teacher, student)
        score = functools.partial(score_student, run, student, run.cfg.scored(current.number))
        run.journal.once(current.stage("score"), score)


def train_baseline(run: Run, seed: int, number: int) -> None:
    """Trains one of the baselines of a seed, and grades its test answers as the student's."""
    baseline = plan.baseline(run, seed, number)
    if not run.journal.done(baseline.stage("score")):
        params = stages.distil(baseline, None, run.begin(seed, baseline.training.start))
        title = run.cfg.baselines[number].name
        grade = functools.partial(run.exam.grade, run.student.reader(params), "student", expected(run), title=title)
        run.journal.once(baseline.stage("score"), grade)


def export(workdir: str | Path, directory: str | Path, seed: int) -> None:
    """Writes a seed's last student as a directory for `load_model`. Raises UserError if there is none yet."""
    run = opening.reopen(Path(workdir))
    (Path(directory) / prefix.NAME).unlink(missing_ok=True)  # of another student: it would be read before this one
    student = run.student
    with jax.set_mesh(run.mesh):
        student.student.export(
            last_student(run, seed),
            student.frozen,
            Path(directory),
            run.origin,
        )


def last_student(run: Run, seed: int) -> Trainable:
    """The trainable state at the end of the last round of a seed that has been run."""
    last = plan.rounds(run, seed)[-1]
    if seed not in run.cfg.seeds or not run.journal.done(last.last().stage("update")):
        raise UserError(
            f"{run.workdir} has no trained student of seed {seed} (seeds: {list(run.cfg.seeds)}); run it to its end"
        )
    return updates.restore(last)


def _finish(run: Run) -> dict[str, Any]:
    metric = " / ".join(dict.fromkeys(assignment.task.metric for assignment in run.assignments))
    written = results.write(run.cfg, metric, run.journal, run.workdir)
    page.write(run.workdir)
    return written
