"""D and the grade: a name or a file -> a Task.

In: a task's name, or a user's file of inputs. Out: Task (views/, sampling/, evaluate.py).
"""

from pathlib import Path

from cdjax.config import UserError
from cdjax.tasks import addition, files, words
from cdjax.tasks.task import Example, Task

__all__ = ["Example", "Task", "load"]

WORDS = ("past_tense", "plural")
RULES = ("addition", "addition_steps")


def load(name: str, *, data_dir: str = "", inputs_file: str = "") -> Task:
    """The task of that name; "addition:5" adds numbers of five digits; "" is the task of `inputs_file`.

    Another name is the file NAME.jsonl in `data_dir`. Raises UserError for what cannot be found or read.
    """
    kind, _, digits = name.partition(":")
    if name in WORDS:
        return words.load(name)
    if kind in RULES:
        if digits and (not digits.isdecimal() or not 2 <= int(digits) <= 18):
            raise UserError(f"task {name!r}: the digits after the colon must be a number from 2 to 18")
        return addition.load(name, digits=int(digits or 3), scratch_pad=kind == "addition_steps")
    if kind == "spider":
        from cdjax.tasks import spider  # its parser takes a tenth of a second to import

        return spider.load(name, data_dir)
    if not name:
        if not inputs_file:
            raise UserError(f"neither a task nor inputs.file is given; tasks: {', '.join(WORDS + RULES)}")
        return files.load(inputs_file)
    if data_dir:
        return files.load(Path(data_dir) / f"{name}.jsonl", name)
    raise UserError(
        f"there is no task {name!r}; there are {', '.join(WORDS + RULES)}, "
        "and NAME.jsonl in data_dir or inputs.file for a task of your own"
    )
