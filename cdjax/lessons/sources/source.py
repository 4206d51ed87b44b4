"""What every source has: it answers the inputs of operations, or it has solved examples of its own."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from cdjax.lessons.assignment import Assignment
    from cdjax.lessons.labelled import Labelled, Solved
    from cdjax.lessons.request import Request
    from cdjax.sampling.store import Rollout
    from cdjax.views.view import View


@dataclasses.dataclass(frozen=True)
class Known:
    """Where solved examples are found."""

    operations: "Sequence[Assignment]"
    views: "Sequence[View]"  # under which who learns is shown each of them
    labelled: "Callable[[Labelled], list[Solved]]"  # a task's solved examples under their view


class Source:
    """A frozen dataclass with `kind` that overrides `answers`, or `solved` and `own_inputs`."""

    kind: ClassVar[str]
    writers: ClassVar[frozenset[str]] = frozenset()  # "teacher", "student": the models that write
    own_inputs: ClassVar[bool] = False  # whether it has solved examples instead of answers to inputs of operations

    def answers(self, request: "Request") -> "list[Rollout]":
        """Answers to inputs of the request, with the targets that it asks for."""
        raise NotImplementedError

    def solved(self, known: Known) -> "list[Solved]":
        """Prompts and the answers written to them, all of which are learned: f and the filters do not see them."""
        raise NotImplementedError
