"""Who teaches next: the same teacher, the student, or their weighted mean.

Only sides that are alike can follow one another, which is checked before anything is compiled.
"""

import jax

from cdjax.distill.plan import Round
from cdjax.learn.checkpoint import Checkpoints
from cdjax.students import Trainable


def successor(round: Round, teacher: Trainable | None, student: Trainable) -> Trainable:
    """Who teaches the next round: the same teacher, the round's student, or with `plan.ema` their weighted mean."""
    plan = round.run.cfg.plan
    if plan.order != "recursive":
        return teacher
    return _averaged(round, teacher, student) if plan.ema and plan.ema_every == "round" else student


def follow(segment: Round, teacher: Trainable | None, student: Trainable) -> Trainable:
    """Who teaches the next segment: the same teacher, or its mean with the student where that follows segments."""
    plan = segment.run.cfg.plan
    return _averaged(segment, teacher, student) if plan.ema and plan.ema_every == "segment" else teacher


def _averaged(round: Round, teacher: Trainable | None, student: Trainable) -> Trainable:
    """`plan.ema` of the teacher and the rest of the student, kept on disk: once it is there, neither is asked for."""
    ema, checkpoints = round.run.cfg.plan.ema, Checkpoints(round.folder("teachers"))
    if round.run.journal.done(round.stage("successor")):
        return checkpoints.load(0, student)
    old = round.run.begin(round.seed, "teacher") if teacher is None else teacher
    mean = jax.tree.map(lambda old, new: ema * old + (1 - ema) * new, old, student)

    def save() -> dict[str, float]:
        with checkpoints.writing() as write:
            write(0, mean, {"ema": ema})
        return {"ema": ema}

    round.run.journal.once(round.stage("successor"), save)
    return mean
