"""Any labelled file -> a classification task: its topic, its sentiment.

In: NAME.jsonl with "input" and "output", or NAME.json as relations.py reads it, in the data directory or below it.
Out: Task, whose definition lists the labels.
"""

import collections
import string

from cdjax.config import UserError
from cdjax.tasks.relations import find, read
from cdjax.tasks.split import split
from cdjax.tasks.task import Example, Task, normalized

EACH = 4  # inputs a label at least, on average: outputs that hardly repeat are no labels


def load(name: str, data_dir: str) -> Task:
    """The task "labels:NAME"; every part has its share of each label.

    Raises UserError for a file that is missing, or whose outputs are not labels.
    """
    path = find(data_dir, name.partition(":")[2])
    examples, _ = read(path)
    labels = sorted({example.output for example in examples})
    if len(labels) < 2 or len(examples) < EACH * len(labels):
        raise UserError(
            f"{path} has {len(labels)} different outputs for {len(examples)} inputs; "
            f"a classification needs two labels or more, and {EACH} inputs for each of them"
        )
    return Task(
        name=name,
        metric="accuracy",
        grade=label_match,
        definition=f"Answer with one of these labels: {', '.join(labels)}.",
        solve={example.input: example.output for example in examples}.get,
        **split(examples, str(path), kind=lambda example: example.output),
    )


def label_match(example: Example, answer: str) -> float:
    """1.0 if the answer is a right label, letter case, space and punctuation around it aside."""
    return float(_bare(answer) in map(_bare, (example.output, *example.references)))


def chance(task: Task) -> float:
    """The accuracy of always giving the label that is most common among the test examples."""
    outputs = collections.Counter(example.output for example in task.test)
    return max(outputs.values()) / len(task.test)


def _bare(text: str) -> str:
    return normalized(text).strip(string.punctuation + string.whitespace)
