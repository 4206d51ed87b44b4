"""Free text, such as openings of reviews to be continued, graded by Rouge-L to a reference or to the teacher's text.

In: NAME.jsonl or NAME.txt in a folder, as files.py reads it. Out: Task, and the grade rouge_l for others.
"""

import dataclasses
import functools
import importlib.util
import re
from pathlib import Path
from typing import Any

from cdjax.errors import UserError
from cdjax.tasks import files
from cdjax.tasks.task import Example, Task


def load(name: str, data_dir: str) -> Task:
    """The task "text:NAME", graded by Rouge-L against the outputs of the file.

    Without outputs (arXiv 2209.15189, A.1) the reference is the teacher's text. Inputs whose output Rouge-L cannot read
    are in the pool. Raises UserError if there is no file, or if no output to test can be read.
    """
    paths = [Path(data_dir) / f"{name.partition(':')[2]}{suffix}" for suffix in (".jsonl", ".txt")]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise UserError(f"task {name!r}: there is neither {paths[0]} nor {paths[1].name} beside it")
    check_rouge()
    task = files.load(path, name)
    unscored = [
        example for example in (*task.test, *task.validation) if example.output and not scorable(example.output)
    ]
    test, validation = (
        tuple(example for example in examples if example not in unscored) for examples in (task.test, task.validation)
    )
    if not test:
        raise UserError(
            f"task {name!r}: Rouge-L reads only the letters a to z and digits, of which no output to test has one; "
            f"take {str(path)!r} as inputs.file, which is graded by exact match"
        )
    pool = (*task.pool, *(example.input for example in unscored))
    return dataclasses.replace(task, metric="rougeL", grade=rouge_l, test=test, validation=validation, pool=pool)


def rouge_l(example: Example, answer: str) -> float:
    """The best F-measure of the longest common subsequence of words, stemmed by Porter, over all references.

    As Tk-Instruct evaluates English: the package's tokenizer, which keeps letters a to z and digits in lower case.
    """
    return float(_scorer().score_multi([example.output, *example.references], answer)["rougeL"].fmeasure)


def scorable(output: str) -> bool:
    """Whether Rouge-L finds a word in the output; if not, it grades every answer 0, even the output itself."""
    return bool(re.search("[a-z0-9]", output.lower()))


def check_rouge() -> None:
    """Raises UserError if `rouge_l` could not grade: called before anything is sampled."""
    if importlib.util.find_spec("rouge_score") is None:
        raise UserError("the metric rougeL needs the package rouge-score; pip install 'cdjax[tasks]'")


@functools.cache
def _scorer() -> Any:
    from rouge_score import rouge_scorer  # takes seconds to import

    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
