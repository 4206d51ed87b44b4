"""Addition of two numbers of equal length: inputs drawn by a rule, answers known, with or without a scratch-pad.

In: the largest number of digits, and how a problem is written. Out: Task.

Digits stand apart, the two numbers are equally long, and every length is equally frequent, as in the paper
(arXiv 2209.15189): the scratch-pad is what is distilled away, and words around the numbers ask whether the skill
carries over.
"""

import itertools
import random
import re
from collections.abc import Callable

from cdjax.errors import UserError
from cdjax.tasks.split import in_turn
from cdjax.tasks.task import Demonstration, Example, Task

LABELLED = 2048  # demonstrations of all lengths together, fewer if all lengths are short; the paper has 500
TEST, VALIDATION, HELD_OUT = 256, 16, 8  # of each length; fewer of one digit, which has 100 problems
MOST_DIGITS = 18
MARKER = "Final answer:"  # a scratch-pad ends with this and the sum between two number signs
NUMBER = r"\d(?: ?\d)*"
THINGS = ("apples", "boats", "books", "cars", "cats", "coins", "dogs", "oranges", "pencils", "turkeys")

Problem = tuple[int, int, str]  # two numbers and what is counted
WRITE: dict[str, Callable[[str, str, str], str]] = {
    "addition": lambda a, b, thing: f"{a} + {b}",
    "addition_steps": lambda a, b, thing: f"{a} + {b}",
    "things": lambda a, b, thing: f"{a} {thing} + {b} {thing}",
    "word_problem": lambda a, b, thing: f"A has {a} {thing}. B has {b} {thing}. How many {thing} are there altogether?",
}


def load(name: str) -> Task:
    """The task "KIND:DIGITS" of a kind in WRITE with 1 to DIGITS digits, 3 by default.

    The problems of a length do not depend on the kind and DIGITS, so that "addition" and "addition_steps" can be
    learned together. The lengths take turns in every part: its first n examples have equally many of each, except for
    one digit, which has 100 problems. Raises UserError for DIGITS out of range.
    """
    kind, _, longest = name.partition(":")
    if longest and not (longest.isdecimal() and 1 <= int(longest) <= MOST_DIGITS):
        raise UserError(f"task {name!r}: the digits after the colon must be a number from 1 to {MOST_DIGITS}")
    most, write = int(longest or 3), WRITE[kind]

    def example(problem: Problem) -> Example:
        a, b, thing = problem
        counted = "" if kind.startswith("addition") else f" {thing}"
        return Example(write(spaced(a), spaced(b), thing), spaced(a + b) + counted)

    one_digit = 3 * (len(_numbers(1)) ** 2 // 8)  # demonstrations of one digit
    longer = (LABELLED - one_digit) // max(1, most - 1)  # of each other length
    parts = [_parts(length, longer) for length in range(1, most + 1)]
    # In words the same sum is another input if other things are counted, which `inputs.collect` cannot recognise: the
    # rule itself leaves out sums that a part has.
    reserved = () if kind.startswith("addition") else itertools.chain(*itertools.chain(*parts))
    taken = {problem[:2] for problem in reserved}

    def rule(rng: random.Random) -> str:
        problem = _draw(rng, rng.randint(1, most))
        while problem[:2] in taken:
            problem = _draw(rng, len(str(problem[0])))
        return example(problem).input

    shown, test, validation, held_out = (in_turn(part) for part in zip(*parts, strict=True))
    return Task(
        name=name,
        metric="accuracy",
        grade=number_match if kind == "addition" else last_number_match,
        definition="Add the two numbers.",
        demonstrations=tuple(
            Demonstration(
                example(problem).input, steps(*problem[:2]) if kind == "addition_steps" else example(problem).output
            )
            for problem in shown
        ),
        test=tuple(map(example, test)),
        validation=tuple(map(example, validation)),
        held_out=tuple(example(problem).input for problem in held_out),
        rule=rule,
        solve=_solve,
    )


def number_match(example: Example, answer: str) -> float:
    """1.0 if the answer is the sum, however spaced, and nothing else: a scratch-pad is not a direct answer."""
    return float(bool(re.fullmatch(NUMBER, answer)) and _value(answer) == _value(example.output))


def last_number_match(example: Example, answer: str) -> float:
    """1.0 if the last number in the answer is the sum, however spaced, so that a scratch-pad is graded by its end."""
    numbers, sums = (re.findall(f"-?{NUMBER}", text) for text in (answer, example.output))
    return float(bool(numbers and sums) and _value(numbers[-1]) == _value(sums[-1]))


def digits(text: str) -> int:
    """The number of digits of the longest number in the text; 0 if there is none."""
    return max((len(number.replace(" ", "")) for number in re.findall(NUMBER, text)), default=0)


def spaced(number: int) -> str:
    """The number's digits with a space between each two."""
    return " ".join(str(number))


def steps(a: int, b: int) -> str:
    """The scratch-pad of two numbers of equal length, from their last digits to the first.

    Every step has the two digits that are added next, the digits of the sum so far, and the carry.
    """
    carry, written, pad = 0, "", [f"{spaced(a)} + {spaced(b)} , C: 0"]
    columns = list(zip(reversed(str(a)), reversed(str(b)), strict=True))
    for column, following in itertools.pairwise([*columns, None]):
        carry, digit = divmod(sum(map(int, column or ())) + carry, 10)
        written = f"{digit} {written}".strip()
        pad.append((" + ".join(following) + " " if following else "") + f", {written}  C: {carry}")
    return " => ".join([*pad, f"{carry} {written} {MARKER} #{spaced(a + b)}#"])


def _numbers(length: int) -> range:
    return range(10 ** (length - 1) if length > 1 else 0, 10**length)


def _draw(rng: random.Random, length: int) -> Problem:
    return rng.choice(_numbers(length)), rng.choice(_numbers(length)), rng.choice(THINGS)


def _parts(length: int, labelled: int) -> list[list[Problem]]:
    """Problems of one length for demonstrations, test, validation and held out; at most three quarters of all."""
    eighth = len(_numbers(length)) ** 2 // 8
    sizes = [min(size, eighth) for size in (TEST, VALIDATION, HELD_OUT)] + [min(labelled, 3 * eighth)]
    rng, problems = random.Random(f"addition {length}"), dict[tuple[int, int], Problem]()
    while len(problems) < sum(sizes):
        problem = _draw(rng, length)
        problems.setdefault(problem[:2], problem)
    left = iter(problems.values())
    test, validation, held_out, shown = (list(itertools.islice(left, size)) for size in sizes)
    return [shown, test, validation, held_out]


def _solve(text: str) -> Example | None:
    numbers = [number.replace(" ", "") for number in re.findall(NUMBER, text)]
    try:
        return Example(text, spaced(sum(map(int, numbers)))) if len(numbers) == 2 else None
    except ValueError:  # thousands of digits, which Python does not read
        return None


def _value(number: str) -> str:
    """The number's sign and digits without leading zeros, as text; empty for zero."""
    digits = "".join(str(int(digit)) for digit in number if digit.isdecimal()).lstrip("0")
    return f"-{digits}" if digits and number.startswith("-") else digits
