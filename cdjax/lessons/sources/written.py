"""Solved examples of tasks as a source, for fine-tuning on labels or replay beside other sources (paper, 4.3)."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from cdjax.lessons.labelled import Labelled
from cdjax.lessons.sources.source import Known, Source

if TYPE_CHECKING:
    from cdjax.lessons.labelled import Solved


@dataclasses.dataclass(frozen=True)
class Written(Source):
    """Solved examples of any task and under any view, all of them in every round.

    If a teacher's distribution is learned, a solved answer counts as drawn from a teacher that is certain of it.
    """

    kind: ClassVar[str] = "written"
    own_inputs: ClassVar[bool] = True
    examples: tuple[Labelled, ...] = ()

    def problems(self) -> Iterator[str]:
        """A source without examples."""
        if not self.examples:
            yield "examples is empty: there is nothing to learn"

    def solved(self, known: Known) -> "list[Solved]":
        """All the examples. Raises UserError for a task with fewer than `count`, or a prompt that is too long."""
        return [example for labelled in self.examples for example in known.labelled(labelled)]
