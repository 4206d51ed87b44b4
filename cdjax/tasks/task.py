"""What a task is: demonstrations, unlabelled inputs, test examples, and when an answer counts."""

import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import Any

from cdjax.errors import UserError

Row = dict[str, Any]  # one record of a task's files
Rows = dict[str, list[Row]]  # by split


@dataclasses.dataclass(frozen=True)
class Demonstration:
    """One solved input, shown in a prompt."""

    input: str
    output: str
    explanation: str = ""


@dataclasses.dataclass(frozen=True)
class Example:
    """One input and, where it is known, its answer."""

    input: str
    output: str = ""
    references: tuple[str, ...] = ()  # other answers that count
    rejected: str = ""  # an answer that must be less likely than the output


@dataclasses.dataclass(frozen=True)
class Task:
    """Everything that does not depend on a model. The five lists of inputs are disjoint."""

    name: str
    metric: str  # what `grade` measures, as "accuracy" or "rougeL"
    grade: Callable[[Example, str], float]  # an example and an answer -> 0.0 .. 1.0
    definition: str = ""  # what {definition} in a context's instruction stands for
    demonstrations: tuple[Demonstration, ...] = ()
    negatives: tuple[Demonstration, ...] = ()  # answers not to give
    pool: tuple[str, ...] = ()
    validation: tuple[Example, ...] = ()
    test: tuple[Example, ...] = ()
    held_out: tuple[str, ...] = ()  # unlabelled, for the held-out KL
    rule: Callable[[random.Random], str] | None = None  # draws one input
    solve: Callable[[str], Example | None] | None = None  # an input, with its answer where known; only a filter may ask


def exact_match(example: Example, answer: str) -> float:
    """1.0 if the answer is the example's output or a reference, letter case and surrounding space aside."""
    right = (example.output, *example.references)
    return float(answer.strip().casefold() in {one.strip().casefold() for one in right})


def whole_match(example: Example, answer: str) -> float:
    """1.0 if the answer is the example's output or a reference, letter case and runs of space aside."""
    return float(normalized(answer) in map(normalized, (example.output, *example.references)))


def normalized(text: str) -> str:
    """The form in which two inputs count as one: letter case and runs of space aside."""
    return " ".join(text.casefold().split())


def named(part: str, names: Sequence[str], kind: str) -> str:
    """The name that `part` is, or is the beginning of up to an underscore, as task363 of task363_sst2.

    Raises UserError if there is none, or several.
    """
    found = [name for name in names if name == part] or [name for name in names if part and name.startswith(f"{part}_")]
    if len(found) == 1:
        return found[0]
    shown = sorted(found or names)
    told = f"{', '.join(shown[:8])}{f' and {len(shown) - 8} more' if len(shown) > 8 else ''}"
    raise UserError(f"{kind} has {'several' if found else 'no'} {part!r}: it has {told}")
