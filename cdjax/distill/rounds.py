"""The paper's algorithm, whole: the teacher answers, f keeps, the student learns, and rounds combine operations.

Every stage is written down when it ends (`journal.json`), samples shard by shard (`rollouts/`), training by Orbax
(`checkpoints/`): a run that is killed anywhere and started again ends as if it had never been killed.
"""

import functools
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from cdjax import config
from cdjax.distill import baseline, stages, supervised
from cdjax.distill.stages import Round
from cdjax.errors import UserError
from cdjax.model.files import huggingface
from cdjax.report import page, results
from cdjax.score.evaluate import score_original, score_student
from cdjax.students import trainable
from cdjax.workdir import setting
from cdjax.workdir.setting import Setting


def run(cfg: config.Experiment, workdir: str | Path, *, profile: bool = False) -> dict[str, Any]:
    """Runs an experiment, or continues it in the same directory; returns what `results.json` holds.

    `profile` leaves traces of a few steps of sampling and of the update in the directory's `profile/`.
    """
    here = setting.open(cfg, Path(workdir), profile=profile)
    with jax.set_mesh(here.mesh):
        here = supervised.with_teacher(here)
        score_original(here)
        for seed in cfg.seeds:
            distil(here, seed)
            if cfg.score.baseline.lrs:
                descend = functools.partial(baseline.gradient_descent, here, seed)
                here.journal.once(f"seed {seed}/gradient_descent", descend)
            for number in range(len(cfg.score.supervised)):
                supervised.baseline(here, seed, number)
    return _finish(here)


def evaluate(cfg: config.Experiment, workdir: str | Path) -> dict[str, Any]:
    """Scores without distilling: the teacher (made first, if need be), before, and what the directory has of the rest.

    A later `run` in the same directory continues from here.
    """
    here = setting.open(cfg, Path(workdir))
    with jax.set_mesh(here.mesh):
        score_original(supervised.with_teacher(here))
    return _finish(here)


def distil(here: Setting, seed: int) -> None:
    """All rounds of the plan for one seed, from the first that has not been scored."""
    every = rounds(here.cfg, seed)
    left = [at for at in every if not here.journal.done(at.stage("score"))]
    if not left:
        return
    done = every[: -len(left)]
    student = stages.restore(here, done[-1]) if done else here.start(seed, here.cfg.start)
    teacher = here.start(seed, "teacher")
    if done:
        teacher = stages.successor(here, done[-1], teacher, student)
    for at in left:
        lessons = [stages.teach(here, at, operation, teacher, student) for operation in at.operations]
        student = stages.learn(here, at, student, teacher, lessons)
        if at != every[-1]:
            teacher = stages.successor(here, at, teacher, student)
        score = functools.partial(score_student, here, student, here.cfg.scored(at.number))
        here.journal.once(at.stage("score"), score)


def rounds(cfg: config.Experiment, seed: int) -> list[Round]:
    """Which operations each round of a seed distils."""
    return [Round(seed, number, operations) for number, operations in enumerate(cfg.rounds())]


def export(workdir: str | Path, directory: str | Path, seed: int) -> None:
    """Writes a seed's last student as a Hugging Face directory. Raises UserError if that seed has not been trained."""
    here = setting.reopen(Path(workdir))
    with jax.set_mesh(here.mesh):
        model = trainable.merge_adapter(here.model(last_student(here, seed)))
    huggingface.write(model, here.tokenizer, directory, stop_ids=here.ends)


def last_student(here: Setting, seed: int) -> nnx.State:
    """The trainable state at the end of the last round of a seed that has been run."""
    at = rounds(here.cfg, seed)[-1]
    if seed not in here.cfg.seeds or not here.journal.done(at.stage("update")):
        raise UserError(
            f"{here.workdir} has no trained student of seed {seed} (seeds: {list(here.cfg.seeds)}); run it to its end"
        )
    return stages.restore(here, at)


def _finish(here: Setting) -> dict[str, Any]:
    found = results.write(
        here.cfg, " / ".join(dict.fromkeys(task.metric for task in here.tasks)), here.journal, here.workdir
    )
    page.write(here.workdir)
    return found
