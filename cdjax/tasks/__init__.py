"""D and the grade: a name or a file -> a Task.

In: a task's name, or a user's file of inputs. Out: Task (views/, sampling/, evaluate.py).
"""

from pathlib import Path

from cdjax.config import UserError
from cdjax.tasks import addition, files, words
from cdjax.tasks.task import Example, Task

__all__ = ["Example", "Task", "load"]

WORDS = ("past_tense", "plural")
RULES = tuple(addition.WRITE)


def load(name: str, *, data_dir: str = "", inputs_file: str = "") -> Task:
    """The task of that name; "addition:5" adds numbers of up to five digits; "" is the task of `inputs_file`.

    Another name is the file NAME.jsonl in `data_dir`. Raises UserError for what cannot be found or read.
    """
    kind, _, _ = name.partition(":")
    if name in WORDS:
        return words.load(name)
    if kind in RULES:
        return addition.load(name)
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
