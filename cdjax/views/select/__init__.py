"""Selectors, which choose the demonstrations that each row is shown, a file each.

A selector is a frozen dataclass, called with demonstrations, the inputs of all rows and a number of shots. It returns
that number of demonstrations for each input, in the order in which they are shown.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypeAlias

from cdjax.errors import UserError
from cdjax.parts import Kinds
from cdjax.tasks.task import Demonstration, normalized

SELECTORS = Kinds(
    "selector",
    first="cdjax.views.select.first:First",
    drawn="cdjax.views.select.drawn:Drawn",
    bm25="cdjax.views.select.bm25:BM25",
)
Selector: TypeAlias = Annotated[Any, SELECTORS]


def others(demonstrations: Sequence[Demonstration], inputs: Sequence[str], shots: int) -> Iterator[list[int]]:
    """Yields for each input the indices of demonstrations of other inputs: a prompt never shows its own answer.

    Raises UserError if there are fewer than `shots`.
    """
    solved = [normalized(demonstration.input) for demonstration in demonstrations]
    for text in inputs:
        asked = normalized(text)
        indices = [index for index, known in enumerate(solved) if known != asked]
        if len(indices) < shots:
            raise UserError(
                f"context.shots is {shots}, and for the input {text!r} there are {len(indices)} other demonstrations "
                "to select from; ask for fewer or write more of them out in the context"
            )
        yield indices
