"""The paper's algorithm, whole: the teacher answers, f keeps, the student learns, and rounds combine operations.

Every stage is written down when it ends (`journal.json`), samples shard by shard (`rollouts/`), training by Orbax
(`checkpoints/`): a run that is killed anywhere and started again ends as if it had never been killed.
"""

import functools
from pathlib import Path
from typing import Any

import jax

from cdjax.config import Experiment
from cdjax.distill import finetuning, opening, stages
from cdjax.distill.opening import Run
from cdjax.distill.scores import score_original, score_student
from cdjax.distill.stages import Round
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
        run = finetuning.with_teacher(run)
        score_original(run)
        for seed in cfg.seeds:
            distil(run, seed)
            if cfg.score.baseline.lrs:
                descend = functools.partial(finetuning.gradient_descent, run, seed)
                run.journal.once(f"seed {seed}/gradient_descent", descend)
            for number in range(len(cfg.score.supervised)):
                finetuning.baseline(run, seed, number)
    return _finish(run)


def evaluate(cfg: Experiment, workdir: str | Path) -> dict[str, Any]:
    """Scores without distilling: the teacher (made first, if need be), before, and what the directory has of the rest.

    A later `run` in the same directory continues from here.
    """
    run = opening.open(cfg, Path(workdir))
    with jax.set_mesh(run.mesh):
        score_original(finetuning.with_teacher(run))
    return _finish(run)


def distil(run: Run, seed: int) -> None:
    """All rounds of the plan for one seed, from the first that has not been scored."""
    every = rounds(run, seed)
    left = [round for round in every if not run.journal.done(round.stage("score"))]
    if not left:
        return
    done = every[: -len(left)]
    student = stages.restore(done[-1]) if done else run.models.start(seed, run.cfg.start)
    teacher = run.models.original
    if done:
        teacher = stages.successor(done[-1], teacher, student)
    for round in left:
        student = stages.distil(round, teacher, student)
        if round is not every[-1]:
            teacher = stages.successor(round, teacher, student)
        score = functools.partial(score_student, run, student, run.cfg.scored(round.number))
        run.journal.once(round.stage("score"), score)


def rounds(run: Run, seed: int) -> list[Round]:
    """The rounds of a seed, with the operations that each distils."""
    return [Round(run, seed, number, operations) for number, operations in enumerate(run.cfg.rounds())]


def export(workdir: str | Path, directory: str | Path, seed: int) -> None:
    """Writes a seed's last student as a directory for `load_model`. Raises UserError if there is none yet."""
    run = opening.reopen(Path(workdir))
    (Path(directory) / prefix.NAME).unlink(missing_ok=True)  # of another student: it would be read before this one
    with jax.set_mesh(run.mesh):
        run.models.student.export(
            last_student(run, seed),
            run.models.frozen,
            Path(directory),
            tokenizer=run.format.tokenizer,
            stop_ids=run.ends,
            source=run.cfg.model,
        )


def last_student(run: Run, seed: int) -> Trainable:
    """The trainable state at the end of the last round of a seed that has been run."""
    last = rounds(run, seed)[-1]
    if seed not in run.cfg.seeds or not run.journal.done(last.last().stage("update")):
        raise UserError(
            f"{run.workdir} has no trained student of seed {seed} (seeds: {list(run.cfg.seeds)}); run it to its end"
        )
    return stages.restore(last)


def _finish(run: Run) -> dict[str, Any]:
    metric = " / ".join(dict.fromkeys(assignment.task.metric for assignment in run.assignments))
    written = results.write(run.cfg, metric, run.journal, run.workdir)
    page.write(run.workdir)
    return written
