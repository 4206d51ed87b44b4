"""Fine-tuning on solved examples: the teacher before the first round, and baselines that have the same labels.

In: a `Setting` and a `config.Supervised`. Out: trained weights. Stages like those of a round: killed and resumed equals
never killed.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optax
from flax import nnx

from cdjax import config
from cdjax.distill import stages
from cdjax.learn import optim, update
from cdjax.learn.checkpoint import Checkpoints
from cdjax.lessons import batches, pairs
from cdjax.progress import progress, tell_compilations
from cdjax.sampling import answers
from cdjax.score import evaluate
from cdjax.workdir.setting import Setting, Solved

HARD = config.Objective(kind="cross_entropy")


def with_teacher(here: Setting) -> Setting:
    """The setting with the first teacher's weights: the model's, fine-tuned if the experiment says so."""
    if not here.cfg.teacher.examples:
        return here
    return dataclasses.replace(here, original=fine_tune(here, here.cfg.teacher, 0, "teacher", "teacher"))


def baseline(here: Setting, seed: int, number: int) -> None:
    """Fine-tunes for one of `score.supervised`, and grades its test answers as a student's."""
    cfg = here.cfg.score.supervised[number]
    stage = f"seed {seed}/{cfg.name}"
    if here.journal.done(f"{stage}/score"):
        return
    params = fine_tune(here, cfg, seed, stage, f"seed_{seed}/supervised_{number}")
    score = functools.partial(evaluate.grade, here, here.model(params), "student", evaluate.expected(here))
    here.journal.once(f"{stage}/score", functools.partial(score, title=cfg.name))


def fine_tune(here: Setting, cfg: config.Supervised, seed: int, stage: str, folder: str | Path) -> nnx.State:
    """The trainable state after the fine-tuning; goes on from its last checkpoint if there is one."""
    solved = [one for labelled in cfg.examples for one in here.labelled(labelled)]
    steps = batches.Batches(taught(solved), cfg.update, seed, here.mesh)
    tx = optim.make(cfg.optim, len(steps))
    start = here.start(seed, cfg.start)
    taught_by = answers.identity(here.model(start))
    checkpoints = Checkpoints(here.workdir / "checkpoints" / folder)
    state = stages.resume(here, f"{stage}/tune", checkpoints, len(steps), start, tx, taught_by)

    def train() -> dict[str, int]:
        nonlocal state
        with checkpoints.writing() as write:

            def save(tree: Any, number: int) -> None:
                write(number, tree, {"teacher": taught_by, "step": number, "steps": len(steps)})

            line = {"seed": seed, "stage": f"{stage}/tune"}
            step, every = make_step(here, tx, stage), cfg.update.checkpoint_every
            state = descend(here, steps, step, state, title=stage, save=save, every=every, **line)
            save(state.params, len(steps))
        return {"steps": len(steps), "pairs": len(solved)}

    here.journal.once(f"{stage}/tune", train)
    return state.params


def descend(
    here: Setting,
    steps: batches.Batches,
    step: stages.Step,
    state: update.TrainState,
    *,
    title: str,
    save: Callable[[update.TrainState, int], None],
    every: int,
    **line: Any,
) -> update.TrainState:
    """Cross-entropy on written answers, to the end of the steps; `save` after `every` so many, but not the last."""
    with progress(title, len(steps), done=int(state.step)) as advance:

        def on_step(number: int, values: dict[str, float]) -> None:
            advance(1, loss=values["loss"])
            if line:
                here.metrics.append(**line, step=number, **values)

        return update.train(step, state, steps, on_step=on_step, save=save, every=every)


def make_step(here: Setting, tx: optax.GradientTransformation, title: str) -> stages.Step:
    """The compiled update of a state by a batch; for every learning rate, which is part of the state."""
    step = update.make_update(here.graph, tx, HARD, here.mesh)
    return tell_compilations(
        lambda state, batch: step(state, here.frozen, None, None, batch),
        lambda _, batch: f"the update of {title!r} for {batch}",
    )


def taught(solved: Sequence[Solved]) -> list[pairs.Pair]:
    """Written answers as the pairs that an update learns from."""
    return [pairs.hard(prompt, prompt, answer) for prompt, answer in solved]
