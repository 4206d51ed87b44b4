"""A file of labelled texts -> a classification task, as of topic or sentiment.

In: the rows of a file that relations.py reads. Out: Task, whose definition lists the labels.
"""

import collections
import string

from cdjax.errors import UserError
from cdjax.tasks.relations import check_name, examples, read
from cdjax.tasks.split import split
from cdjax.tasks.task import Example, Rows, Task, normalized, whole_match

__all__ = ["chance", "label_match", "read", "task"]

EACH = 4  # inputs for each label at least, on average: outputs that hardly repeat are not labels


def task(name: str, rows: Rows) -> Task:
    """The task "labels:NAME"; every part has its share of each label.

    Raises UserError for outputs that are not labels.
    """
    check_name(name)
    known = examples(rows)
    labels = sorted({example.output for example in known})
    answers = {normalized(answer) for example in known for answer in (example.output, *example.references)}
    if len(labels) < 2 or len(known) < EACH * len(labels):
        raise UserError(
            f"task {name!r} has {len(labels)} different outputs for {len(known)} inputs; "
            f"a classification needs two labels or more, and {EACH} inputs for each of them"
        )
    return Task(
        name=name,
        metric="accuracy",
        grade=label_match if len(set(map(_bare, answers))) == len(answers) else whole_match,
        definition=f"Answer with one of these labels: {', '.join(labels)}.",
        solve={example.input: example for example in known}.get,
        **split(known, f"task {name!r}", kind=lambda example: example.output),
    )


def label_match(example: Example, answer: str) -> float:
    """1.0 if the answer is a right label, aside from letter case and from space and punctuation around it.

    An answer of punctuation alone is compared as it is. Labels that differ only in what is ignored, as -1 and 1, need
    `whole_match`.
    """
    bare = float(_bare(answer) in map(_bare, (example.output, *example.references)))
    return bare if _bare(answer) else whole_match(example, answer)


def chance(task: Task) -> float:
    """The accuracy of always answering the most frequent label of the test examples."""
    outputs = collections.Counter(example.output for example in task.test)
    return max(outputs.values()) / len(task.test)


def _bare(text: str) -> str:
    return normalized(text).strip(string.punctuation + string.whitespace)
