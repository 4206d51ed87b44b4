"""The paper's input generator: known inputs of a task -> a text that the model continues with a new one.

In: Task, Template, Inputs; what the model wrote. Out: text (encode.py), an input (tasks/inputs.py).
"""

import random

from cdjax.errors import UserError
from cdjax.tasks.inputs import Inputs
from cdjax.tasks.task import Task
from cdjax.views import render
from cdjax.views.context import Template
from cdjax.views.render import Tokenizer

ASK = "Here are some inputs of a task, one a line. Write one more, different from these, and nothing else."


def texts(tokenizer: Tokenizer, template: Template, task: Task, cfg: Inputs, seed: int) -> list[str]:
    """`cfg.written` texts, each with its own permutation of `cfg.written_shots` known inputs.

    In plain text the task's demonstrations are shown with their answers, which say more of the task than inputs alone,
    and the text ends where the next input begins. Raises UserError if no input is known.
    """
    stop = template.stop or "\n"
    lines = [d.input for d in task.demonstrations] or list(task.pool)
    shown = [text + stop for text in lines if stop not in text]
    if not template.chat:
        solved = [render.question(template, d.input) + render.answer(template, d.output) for d in task.demonstrations]
        shown = solved or [_around(template)[0] + text for text in shown]
    if not shown:
        raise UserError(f"task {task.name!r} has no input to show for inputs.written; give it demonstrations or a pool")
    rng = random.Random(f"written {seed}")
    lists = ["".join(rng.sample(shown, min(cfg.written_shots, len(shown)))) for _ in range(cfg.written)]
    if template.chat:
        return [render.chat(tokenizer, [{"role": "user", "content": f"{ASK}\n\n{text.strip()}"}]) for text in lists]
    # Tokens of words, such as " word", begin with a space: the text must not end with another.
    return [text + _around(template)[0].rstrip(" ") for text in lists]


def read(template: Template, text: str, stopped: bool) -> str:
    """The new input in the model's text, up to what follows an input in a question; empty if it is unfinished."""
    after = "" if template.chat else _around(template)[1].rstrip()
    if after and after in text:
        return text.partition(after)[0].strip()
    return text.strip() if stopped else ""


def _around(template: Template) -> tuple[str, str]:
    """The text of a question before its input, and the text after it."""
    before, _, after = template.question.partition("{input}")
    return before, after
