"""Solved examples of tasks: for fine-tuning on labels, and for replay beside other sources (paper, 4.3, transfer)."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from cdjax.lessons.labelled import Labelled
from cdjax.lessons.sources.source import Known, Source

if TYPE_CHECKING:
    from cdjax.lessons.labelled import Solved


@dataclasses.dataclass(frozen=True)
class Written(Source):
    """Solved examples, of any task and under any view, all of them in every round.

    Where a teacher's distribution is learned, a written answer is as if drawn from one that is certain of its tokens.
    """

    kind: ClassVar[str] = "written"
    own_inputs: ClassVar[bool] = True
    examples: tuple[Labelled, ...] = ()

    def problems(self) -> Iterator[str]:
        """No examples at all."""
        if not self.examples:
            yield "examples is empty: there is nothing to learn"

    def solved(self, known: Known) -> "list[Solved]":
        """Raises UserError for a task with fewer examples than are asked for, or a prompt that is too long."""
        return [example for labelled in self.examples for example in known.labelled(labelled)]
