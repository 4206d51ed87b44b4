"""A task: demonstrations, unlabelled inputs, test examples, and the grade of an answer."""

import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import Any

from cdjax.errors import UserError

Row = dict[str, Any]  # one record of a task's files
Rows = dict[str, list[Row]]  # by split


@dataclasses.dataclass(frozen=True)
class Demonstration:
    """A solved input, shown in a prompt."""

    input: str
    output: str
    explanation: str = ""


@dataclasses.dataclass(frozen=True)
class Example:
    """An input and its answer, if known."""

    input: str
    output: str = ""
    references: tuple[str, ...] = ()  # other right answers
    rejected: str = ""  # an answer that must be less likely than the output


@dataclasses.dataclass(frozen=True)
class Task:
    """A task without a model. The five lists of inputs are disjoint."""

    name: str
    metric: str  # what `grade` measures, as "accuracy" or "rougeL"
    grade: Callable[[Example, str], float]  # an example and an answer -> 0.0 .. 1.0
    definition: str = ""  # the text of {definition} in a context's instruction
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
    return float(answer.strip().casefold() in {reference.strip().casefold() for reference in right})


def whole_match(example: Example, answer: str) -> float:
    """1.0 if the answer is the example's output or a reference, letter case and runs of space aside."""
    return float(normalized(answer) in map(normalized, (example.output, *example.references)))


def normalized(text: str) -> str:
    """The text in lower case, with single spaces: inputs with the same normalized text are duplicates."""
    return " ".join(text.casefold().split())


def named(part: str, names: Sequence[str], kind: str) -> str:
    """The name that equals `part`, or that begins with it and an underscore, as task363_sst2 for task363.

    Raises UserError if there is no such name, or more than one.
    """
    matches = [name for name in names if name == part]
    matches = matches or [name for name in names if part and name.startswith(f"{part}_")]
    if len(matches) == 1:
        return matches[0]
    choices = sorted(matches or names)
    listed = f"{', '.join(choices[:8])}{f' and {len(choices) - 8} more' if len(choices) > 8 else ''}"
    raise UserError(f"{kind} has {'several' if matches else 'no'} {part!r}: it has {listed}")
