"""D and the grade: a name or a file -> a Task.

In: a task's name, or a user's file of inputs. Out: Task (views/, sampling/, evaluate.py).
"""

from pathlib import Path

from cdjax.config import UserError
from cdjax.tasks import addition, counterfact, files, labels, relations, words
from cdjax.tasks.task import Example, Task

__all__ = ["Example", "Task", "load"]

WORDS = ("past_tense", "plural")
RULES = tuple(addition.WRITE)
IN_DATA_DIR = {"counterfact": counterfact.load, "labels": labels.load, "relation": relations.load}


def load(name: str, *, data_dir: str = "", inputs_file: str = "") -> Task:
    """The task of that name; "addition:5" adds numbers of up to five digits; "" is the task of `inputs_file`.

    Another name is the file NAME.jsonl in `data_dir`. Raises UserError for what cannot be found or read.
    """
    kind, colon, _ = name.partition(":")
    if name in WORDS:
        return words.load(name)
    if kind in RULES:
        return addition.load(name)
    if kind in IN_DATA_DIR and colon:
        if not data_dir:
            raise UserError(f"task {name!r} is read from files: say in data_dir where they are")
        return IN_DATA_DIR[kind](name, data_dir)
    if not name:
        if not inputs_file:
            raise UserError(f"neither a task nor inputs.file is given; tasks: {', '.join(WORDS + RULES)}")
        return files.load(inputs_file)
    if data_dir:
        return files.load(Path(data_dir) / f"{name}.jsonl", name)
    raise UserError(
        f"there is no task {name!r}; there are {', '.join(WORDS + RULES)}, {', '.join(IN_DATA_DIR)}:NAME, "
        "and NAME.jsonl in data_dir or inputs.file for a task of your own"
    )
