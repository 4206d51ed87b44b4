"""D and the grade: a name or a file -> a Task.

In: a task's name, a user's file of inputs, or files of a known form in `data_dir`. Out: Task (views/, sampling/,
score/).
"""

from pathlib import Path

from cdjax.errors import UserError
from cdjax.tasks import addition, counterfact, files, labels, natural_instructions, relations, spider, text, words
from cdjax.tasks.task import Example, Task

__all__ = ["Example", "Task", "load"]

WORDS = ("past_tense", "plural")
RULES = tuple(addition.WRITE)
SOURCES = {  # each has read(folder, part) and task(name, rows)
    "natural_instructions": natural_instructions,
    "counterfact": counterfact,
    "labels": labels,
    "relation": relations,
    "spider": spider,
}
PREPARED = "tfds:"  # before the name of such a task: as builders.prepare wrote it, not as its own files
NAMES = (*WORDS, *RULES, *SOURCES, "text:NAME")


def load(name: str, *, data_dir: str = "", inputs_file: str = "") -> Task:
    """The task with this name; "addition:5" adds numbers of up to five digits; "" is the task of `inputs_file`.

    KIND:PART, as "natural_instructions:task363", is read from files in `data_dir`; the meaning of a second colon
    depends on the kind: another metric, or a part of the test. tfds:KIND:PART is read as `builders.prepare` wrote it.
    "text:NAME" is free text, in NAME.jsonl or NAME.txt, and any other name is the file NAME.jsonl in `data_dir`. Raises
    UserError for a task that does not exist or cannot be read.
    """
    kind = name.partition(":")[0]
    if name.startswith(PREPARED) or kind in SOURCES:
        return _sourced(name, data_dir)
    if name.startswith("text:"):
        return text.load(name, data_dir)
    if name in WORDS:
        return words.load(name)
    if kind in RULES:
        return addition.load(name)
    if not name:
        if not inputs_file:
            raise UserError(f"neither a task nor inputs.file is given; tasks: {', '.join(NAMES)}")
        return files.load(inputs_file)
    if data_dir:
        return files.load(Path(data_dir) / f"{name}.jsonl", name)
    raise UserError(
        f"there is no task {name!r}; there are {', '.join(NAMES)}, "
        "and NAME.jsonl in data_dir or inputs.file for a task of your own"
    )


def _sourced(name: str, data_dir: str) -> Task:
    kind, _, rest = name.removeprefix(PREPARED).partition(":")
    part = rest.partition(":")[0]
    if kind not in SOURCES:
        raise UserError(f"there is no task {name!r}; after {PREPARED!r} comes one of {', '.join(SOURCES)}")
    if not data_dir or not Path(data_dir).is_dir():
        raise UserError(f"task {name!r} is read from files: data_dir must be the folder with them, got {data_dir!r}")
    if name.startswith(PREPARED):
        from cdjax.tasks import builders  # imports tensorflow-datasets, a second

        rows = builders.read(kind, part, data_dir)
    else:
        rows = SOURCES[kind].read(Path(data_dir), part)
    return SOURCES[kind].task(name.removeprefix(PREPARED), rows)
