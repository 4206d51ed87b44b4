"""Labelled examples -> the five parts of a task, whatever their order in the file.

In: Examples. Out: demonstrations, pool, validation, test and held-out inputs (Task).
"""

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, TypeVar

from cdjax.errors import UserError
from cdjax.tasks.task import Demonstration, Example, normalized

T = TypeVar("T")

DEMONSTRATIONS, TEST, VALIDATION, HELD_OUT = 10, 200, 64, 64
LEAST = 8  # examples that a task needs, so that no part is empty


def split(
    examples: Sequence[Example], where: str, kind: Callable[[Example], str] = lambda example: ""
) -> dict[str, Any]:
    """The fields of a Task by name: a quarter at most shown, a quarter tested, an eighth each for the others.

    Every part has its share of each `kind`. Raises UserError for fewer than LEAST examples.
    """
    if len(examples) < LEAST:
        raise UserError(f"{where} has {len(examples)} different inputs; at least {LEAST} are needed for all parts")
    kinds = collections.defaultdict(list)
    for example in sorted(examples, key=lambda example: hashlib.sha256(example.input.encode()).digest()):
        kinds[kind(example)].append(example)
    # Examples of each kind are spread evenly over (0, 1), and all are taken in the order of these ranks.
    ranked = [
        ((i + 0.5) / len(of_kind), name, example)
        for name, of_kind in kinds.items()
        for i, example in enumerate(of_kind)
    ]
    left = iter(example for *_, example in sorted(ranked, key=lambda rank: rank[:2]))

    def take(most: int, share: int) -> tuple[Example, ...]:
        return tuple(next(left) for _ in range(min(most, len(examples) // share)))

    shown, test, validation, held_out = take(DEMONSTRATIONS, 4), take(TEST, 4), take(VALIDATION, 8), take(HELD_OUT, 8)
    return {
        "demonstrations": tuple(Demonstration(example.input, example.output) for example in shown),
        "test": test,
        "validation": validation,
        "held_out": tuple(example.input for example in held_out),
        "pool": tuple(example.input for example in left),
    }


def merged(examples: Sequence[Example]) -> list[Example]:
    """One example for each input; the other answers to the same input become its references."""
    by_input: dict[str, Example] = {}
    for example in examples:
        first = by_input.setdefault(normalized(example.input), example)
        answers = dict.fromkeys((*first.references, example.output, *example.references))
        references = tuple(answer for answer in answers if answer != first.output)
        by_input[normalized(example.input)] = dataclasses.replace(first, references=references)
    return list(by_input.values())


def in_turn(groups: Collection[Sequence[T]]) -> Iterator[T]:
    """Yields the first entry of each group, then the second of each, to the end of the longest group."""
    for i in range(max(map(len, groups), default=0)):
        yield from (group[i] for group in groups if i < len(group))
