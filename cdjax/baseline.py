"""The paper's baseline: gradient descent on the demonstrations themselves, instead of distilling them.

In: a `Setting`. Out: test grades of the grid point (learning rate, epochs) that did best on validation examples; those
are labelled, and distillation never sees them.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from flax import nnx

from cdjax import batches, config, evaluate, optim, parallel, supervised
from cdjax.distill import pairs, update
from cdjax.setting import Setting
from cdjax.views import render


def gradient_descent(here: Setting, seed: int) -> dict[str, Any]:
    """Graded test answers of the tuned baseline, `chosen`, and the `grid` that it was chosen from."""
    validation = [list(task.validation[: here.cfg.score.validation]) for task in here.tasks]
    grid: list[dict[str, float]] = []
    best: tuple[float, nnx.State | None] = (-1.0, None)
    diverged: list[float] = []

    def score(lr: float, epochs: int, params: nnx.State) -> None:
        nonlocal best
        title = f"baseline, lr {lr:g}, epoch {epochs}"
        graded = evaluate.grade(here, here.model(params), "student", validation, title=title)
        accuracy = float(np.mean(graded["grades"]))
        grid.append({"lr": lr, "epochs": epochs, "validation": accuracy})
        if accuracy > best[0]:
            best = accuracy, params

    for lr in here.cfg.score.baseline.lrs:
        try:
            descend(here, seed, lr, score)
        except update.Diverged:
            diverged.append(lr)
    if best[1] is None:
        raise config.UserError(f"the baseline diverged at every score.baseline.lrs={diverged}; give lower ones")
    graded = evaluate.grade(here, here.model(best[1]), "student", evaluate.examples(here), title="baseline")
    chosen = max(grid, key=lambda point: point["validation"])
    return graded | {"grid": grid, "chosen": chosen, "diverged": diverged}


def descend(here: Setting, seed: int, lr: float, score: Callable[[float, int, nnx.State], None]) -> None:
    """Fine-tunes on the demonstrations at one learning rate, and calls `score` every few epochs and at the end."""
    cfg = here.cfg.score.baseline
    batch = max(cfg.batch, parallel.batch_parts(here.mesh))  # each device needs a pair
    steps = batches.Batches(solved(here), config.Update(epochs=cfg.epochs, batch=batch), seed, here.mesh)
    an_epoch = len(steps) // cfg.epochs
    tx = optim.make(config.Optim(lr=lr), len(steps))
    state = supervised.descend(
        here,
        steps,
        tx,
        update.start(here.start(seed, here.cfg.start), tx, here.mesh),
        title=f"baseline, lr {lr:g}",
        save=lambda state, at: score(lr, at // an_epoch, state.params),
        every=an_epoch * cfg.every,
    )
    score(lr, cfg.epochs, state.params)


def solved(here: Setting) -> list[pairs.Pair]:
    """The demonstrations of every operation's context under the student's view, with their written answers."""
    limits, found = here.cfg.limits, []
    for operation, task in zip(here.cfg.operations(), here.tasks, strict=True):
        shown = render.complete(operation.context, task).demonstrations
        found += here.solved(task, operation.student, shown, limits.student_prompt, limits.overflow)
    return supervised.taught(found)
