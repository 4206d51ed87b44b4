"""Other demonstrations for every row, drawn at random."""

import dataclasses
import random
from collections.abc import Sequence
from typing import ClassVar

from cdjax.parts import at_least
from cdjax.tasks.task import Demonstration
from cdjax.views.select import others


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A sample of the demonstrations of context and task, in a random order; it depends on input and seed alone."""

    kind: ClassVar[str] = "drawn"
    seed: int = at_least(0, 0)

    def __call__(
        self, demonstrations: Sequence[Demonstration], inputs: Sequence[str], shots: int
    ) -> list[tuple[Demonstration, ...]]:
        return [
            tuple(demonstrations[index] for index in random.Random(f"drawn {self.seed} {text}").sample(indices, shots))
            for text, indices in zip(inputs, others(demonstrations, inputs, shots), strict=True)
        ]
