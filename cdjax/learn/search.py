"""A grid of learning rates and epochs, searched on labelled validation examples: one way for students and baselines.

In: a way to train at a learning rate, and one to score weights. Out: the weights that answer best, and the whole grid.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from cdjax.errors import UserError
from cdjax.learn.update import Diverged

Point: TypeAlias = Callable[[int, Any], None]  # scores the weights after this many epochs


def search(
    lrs: Sequence[float], train: Callable[[float, Point], None], score: Callable[[Any, str], float], *, title: str
) -> tuple[Any, dict[str, Any]]:
    """The weights of the best point, and `grid`, `chosen` and `diverged`; of equal points the first counts.

    `score` gives the accuracy of weights; it is also told which point of the grid they are. A learning rate at which
    training diverges keeps the points before that. Raises UserError if there are none at all.
    """
    grid: list[dict[str, float]] = []
    diverged: list[float] = []
    best: Any = None
    for lr in lrs:

        def add(epochs: int, params: Any, lr: float = lr) -> None:
            nonlocal best
            accuracy = score(params, f"{title}, lr {lr:g}, epoch {epochs}")
            if accuracy > max((point["validation"] for point in grid), default=-1.0):
                best = params
            grid.append({"lr": lr, "epochs": epochs, "validation": accuracy})

        try:
            train(lr, add)
        except Diverged:
            diverged.append(lr)
    if not grid:
        raise UserError(f"{title} diverged before it was scored at each learning rate of {diverged}; give lower")
    return best, {"grid": grid, "chosen": max(grid, key=lambda point: point["validation"]), "diverged": diverged}
