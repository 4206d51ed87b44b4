"""Grid search over learning rates and epochs on labelled validation examples, for students and baselines.

In: functions that train at a learning rate and score weights. Out: the best weights, and every point's accuracy.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from cdjax.errors import UserError
from cdjax.learn.update import Diverged

Point: TypeAlias = Callable[[int, Any], None]  # scores the weights after this many epochs


def search(
    lrs: Sequence[float], train: Callable[[float, Point], None], score: Callable[[Any, str], float], *, title: str
) -> tuple[Any, dict[str, Any]]:
    """The weights of the best point, the first of equals, and a dictionary with `grid`, `chosen` and `diverged`.

    `score(weights, title)` returns an accuracy; the title names the point of the grid. If training diverges, the points
    before count. Raises UserError if there are none at any learning rate.
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
