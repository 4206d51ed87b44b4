"""The paper's baseline: gradient descent on the demonstrations themselves, instead of distilling them.

In: a `Setting`. Out: test grades of the grid point (learning rate, epochs) that did best on validation examples; those
are labelled, and distillation never sees them.
"""

import functools
from typing import Any

from cdjax import config, parallel
from cdjax.distill import stages, supervised, tune
from cdjax.learn import optim, update
from cdjax.lessons import batches, pairs
from cdjax.score import evaluate
from cdjax.views import render
from cdjax.workdir.setting import Setting


def gradient_descent(here: Setting, seed: int) -> dict[str, Any]:
    """Graded test answers of the tuned baseline, `chosen`, and the `grid` that it was chosen from."""
    cfg = here.cfg.score.baseline
    batch = max(cfg.batch, parallel.batch_parts(here.mesh))  # each device needs a pair
    steps = batches.Batches(solved(here), config.Update(epochs=cfg.epochs, batch=batch), seed, here.mesh)
    step = supervised.make_step(here, optim.make(config.Optim(), len(steps)), "baseline")
    train = functools.partial(descend, here, seed, steps, step)
    params, told = tune.search(here, cfg.lrs, train, here.cfg.scored(-1), title="baseline")
    return evaluate.grade(here, here.model(params), "student", evaluate.examples(here), title="baseline") | told


def descend(here: Setting, seed: int, steps: batches.Batches, step: stages.Step, lr: float, score: tune.Point) -> None:
    """Fine-tunes on the demonstrations at one learning rate, and calls `score` every few epochs and at the end."""
    cfg = here.cfg.score.baseline
    an_epoch = len(steps) // cfg.epochs
    tx = optim.make(config.Optim(lr=lr), len(steps))
    state = supervised.descend(
        here,
        steps,
        step,
        update.start(here.start(seed, here.cfg.start), tx, here.mesh),
        title=f"baseline, lr {lr:g}",
        save=lambda state, at: score(at // an_epoch, state.params),
        every=an_epoch * cfg.every,
    )
    score(cfg.epochs, state.params)


def solved(here: Setting) -> list[pairs.Pair]:
    """The demonstrations of every operation's context under the student's view, with their written answers."""
    limits, found = here.cfg.limits, []
    for operation, task in zip(here.cfg.operations(), here.tasks, strict=True):
        shown = render.complete(operation.context, task).demonstrations
        found += here.solved(task, operation.student, shown, limits.student_prompt, limits.overflow)
    return supervised.taught(found)
