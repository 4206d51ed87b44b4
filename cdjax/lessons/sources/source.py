"""The base class of sources, which answer the inputs of operations, or bring solved examples."""

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
    """The solved examples that an experiment knows: those of its operations, and those of tasks."""

    operations: "Sequence[Assignment]"
    views: "Sequence[View]"  # the view of the model that learns, of each operation
    labelled: "Callable[[Labelled], list[Solved]]"  # a task's solved examples under their view


class Source:
    """A frozen dataclass with `kind` that overrides `answers`, or `solved` and `own_inputs`."""

    kind: ClassVar[str]
    writers: ClassVar[frozenset[str]] = frozenset()  # "teacher", "student": the models that write
    needs: ClassVar[frozenset[str]] = frozenset()  # "known answers": of the task to its inputs
    own_inputs: ClassVar[bool] = False  # whether it brings solved examples instead of answering inputs of operations

    def most(self, per_input: int) -> int:
        """The most answers to an input, where models are asked for `per_input`: so many updates are planned."""
        return per_input

    def answers(self, request: "Request") -> "list[Rollout]":
        """Answers to inputs of the request, with the targets that it asks for."""
        raise NotImplementedError

    def solved(self, known: Known) -> "list[Solved]":
        """Prompts with their answers, which are learned whole: f and the filters are not applied."""
        raise NotImplementedError
