"""Addition of two numbers of equal length: inputs drawn by a rule, answers known, with or without a scratch-pad.

In: the number of digits. Out: Task.
"""

import random
import re

from cdjax.config import Demonstration
from cdjax.tasks.task import Example, Task

DEMONSTRATIONS = 10
TEST, VALIDATION, HELD_OUT = 128, 64, 32
MARKER = "Final answer:"  # a scratch-pad ends with this and the sum


def load(name: str, *, digits: int, scratch_pad: bool) -> Task:
    """The task with fixed demonstrations and test sums; the rule draws from all sums of that length."""

    def rule(rng: random.Random) -> str:
        return " + ".join(str(rng.randrange(10 ** (digits - 1), 10**digits)) for _ in range(2))

    rng = random.Random(name)
    inputs: dict[str, None] = {}
    while len(inputs) < DEMONSTRATIONS + TEST + VALIDATION + HELD_OUT:
        inputs.setdefault(rule(rng))
    drawn = [Example(text, _sum(text) or "") for text in inputs]
    shown, examples = drawn[:DEMONSTRATIONS], drawn[DEMONSTRATIONS:]
    return Task(
        name=name,
        metric="accuracy",
        grade=last_number_match,
        demonstrations=tuple(Demonstration(e.input, steps(e.input) if scratch_pad else e.output) for e in shown),
        test=tuple(examples[:TEST]),
        validation=tuple(examples[TEST : TEST + VALIDATION]),
        held_out=tuple(example.input for example in examples[TEST + VALIDATION :]),
        rule=rule,
        solve=_sum,
    )


def last_number_match(example: Example, answer: str) -> float:
    """1.0 if the last whole number in the answer is the sum, so that a scratch-pad is graded by its end."""
    numbers = re.findall(r"-?\d+", answer)
    return float(bool(numbers) and int(numbers[-1]) == int(example.output))


def steps(text: str) -> str:
    """The sum worked out on one line from the last digit to the first, every step with its carry."""
    left, right = text.split(" + ")
    carry, lines = 0, []
    for a, b in zip(reversed(left), reversed(right), strict=True):
        total = int(a) + int(b) + carry
        lines.append(f"{a} + {b} + {carry} = {total}, write {total % 10}, carry {total // 10}.")
        carry = total // 10
    return " ".join([*lines, MARKER, str(int(left) + int(right))])


def _sum(text: str) -> str | None:
    match = re.fullmatch(r"(\d+) \+ (\d+)", text.strip())
    return str(int(match[1]) + int(match[2])) if match else None
