"""The same demonstrations for every row: the first ones."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from cdjax.parts import at_least
from cdjax.tasks.task import Demonstration


@dataclasses.dataclass(frozen=True)
class First:
    """All demonstrations of the context, and then the task's first ones after `skip`, as many as shots."""

    kind: ClassVar[str] = "first"
    skip: int = at_least(0, 0)

    def __call__(
        self, demonstrations: Sequence[Demonstration], inputs: Sequence[str], shots: int
    ) -> list[tuple[Demonstration, ...]]:
        return [tuple(demonstrations[self.skip : self.skip + shots])] * len(inputs)
