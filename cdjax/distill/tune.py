"""A grid of learning rates and epochs, searched on labelled validation examples: one way for students and baselines.

In: a way to train at a learning rate. Out: the weights that answer best, and what every point of the grid scored.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from flax import nnx

from cdjax.errors import UserError
from cdjax.learn import update
from cdjax.score import evaluate
from cdjax.workdir.setting import Setting

Point: TypeAlias = Callable[[int, nnx.State], None]  # scores the weights after so many epochs


def search(
    here: Setting, lrs: Sequence[float], train: Callable[[float, Point], None], operations: Sequence[int], *, title: str
) -> tuple[nnx.State, dict[str, Any]]:
    """The weights of the best point, and `grid`, `chosen` and `diverged`; of equal points the first counts.

    Points are scored on the operations' first `score.validation` validation examples, under the student's view.
    A learning rate at which training diverges keeps the points before that. Raises UserError if there are none at all.
    """
    validation = [list(task.validation[: here.cfg.score.validation]) for task in here.tasks]
    validation = evaluate.only(validation, operations)
    grid: list[dict[str, float]] = []
    diverged: list[float] = []
    best: nnx.State | None = None
    for lr in lrs:

        def score(epochs: int, params: nnx.State, lr: float = lr) -> None:
            nonlocal best
            where = f"{title}, lr {lr:g}, epoch {epochs}"
            graded = evaluate.grade(here, here.model(params), "student", validation, title=where)
            accuracy = float(np.mean(graded["grades"]))
            if accuracy > max((point["validation"] for point in grid), default=-1.0):
                best = params
            grid.append({"lr": lr, "epochs": epochs, "validation": accuracy})

        try:
            train(lr, score)
        except update.Diverged:
            diverged.append(lr)
    if best is None:
        raise UserError(f"{title} diverged before it was scored at each learning rate of {diverged}; give lower")
    chosen = max(grid, key=lambda point: point["validation"])
    return best, {"grid": grid, "chosen": chosen, "diverged": diverged}
