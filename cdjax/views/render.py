"""A context and one input -> text, by a plain template or by the tokenizer's chat template.

In: Context, Template, Task, input. Out: text (encode.py).
"""

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from cdjax.errors import UserError
from cdjax.tasks.task import Demonstration, Task
from cdjax.views.context import DEFINITION, Context, Template
from cdjax.views.select.first import First

Tokenizer = Any  # transformers' PreTrainedTokenizerBase, which takes a second to import
Message = dict[str, str]


def rows(context: Context, task: Task, inputs: Sequence[str]) -> list[Context]:
    """The complete context of every input's row."""
    whole = complete(context, task)
    if not whole.per_row:
        return [whole] * len(inputs)
    selected = whole.select(whole.demonstrations, inputs, whole.shots)
    return [dataclasses.replace(whole, demonstrations=shown, shots=0, select=First()) for shown in selected]


def complete(context: Context, task: Task) -> Context:
    """The context with its file read into the instruction, and all that it takes from the task written out.

    If rows differ in their demonstrations, all that may be selected are written out. Raises UserError if the task has
    fewer demonstrations than `shots`, no explanation or no definition, or the file cannot be read.
    """
    if context.file and context.instruction:
        raise UserError(f"a context has an instruction and the file {context.file!r} in its place; give one of them")
    demonstrations = context.demonstrations
    if context.per_row:
        demonstrations = tuple(dict.fromkeys(demonstrations + task.demonstrations))
    elif context.shots:
        _check("shots", context.shots, task.demonstrations, task, context.select.skip)
        demonstrations += context.select(task.demonstrations, [""], context.shots)[0]
    _check("negative_shots", context.negative_shots, task.negatives, task)
    negatives = context.negatives + task.negatives[: context.negative_shots]
    if context.explanations and not any(d.explanation for d in demonstrations + negatives):
        raise UserError("context.explanations is on, but no demonstration has an explanation")
    if DEFINITION in context.instruction and not task.definition:
        raise UserError(f"context.instruction has {DEFINITION}, but task {task.name!r} has none; write it out")
    return dataclasses.replace(
        context,
        instruction=_read(context.file) if context.file else context.instruction.replace(DEFINITION, task.definition),
        file="",
        demonstrations=demonstrations,
        shots=context.shots if context.per_row else 0,
        select=context.select if context.per_row else First(),
        negatives=negatives,
        negative_shots=0,
    )


def members(context: Context) -> tuple[Context, ...]:
    """The contexts of an ensemble's prompts, from a complete context; without an ensemble, that context alone.

    A larger ensemble begins with the prompts of a smaller ensemble.
    """

    def member(number: int) -> Context:
        drawn = random.Random(f"ensemble {number}").sample(context.demonstrations, context.drawn)
        return dataclasses.replace(context, demonstrations=tuple(drawn), ensemble=0, drawn=0)

    return tuple(map(member, range(context.ensemble))) or (context,)


def question(template: Template, text: str) -> str:
    """The input as the template asks it."""
    return template.question.replace("{input}", text)


def answer(template: Template, output: str) -> str:
    """The output as the template's answer."""
    return template.answer.replace("{output}", output)


def prompt(tokenizer: Tokenizer, template: Template, context: Context, text: str) -> str:
    """The text of an input's prompt under a complete context, up to where the answer begins."""
    if template.chat:
        return chat(tokenizer, messages(template, context, text))
    return plain(template, context, text)


def plain(template: Template, context: Context, text: str) -> str:
    """The prompt as plain text."""
    parts = [template.system.replace("{instruction}", context.instruction)] if context.instruction else []
    for pair in _solved(template, context):
        parts += pair
    return "".join([*parts, *_negatives(template, context), _asked(template, context, text)])


def messages(template: Template, context: Context, text: str) -> list[Message]:
    """The prompt as a conversation: system, then user and assistant in turn.

    Answers not to give stand in the system message: the assistant never says them.
    """
    system = "\n\n".join(part for part in (context.instruction, "".join(_negatives(template, context))) if part)
    turns = [("system", system)] if system else []
    for asked, answered in _solved(template, context):
        turns += [("user", asked), ("assistant", answered)]
    turns.append(("user", _asked(template, context, text)))
    return [{"role": role, "content": content.strip()} for role, content in turns]


def chat(tokenizer: Tokenizer, conversation: list[Message]) -> str:
    """The conversation rendered by the tokenizer's chat template, up to and with the marker that opens the answer.

    A template that refuses a system message, or leaves it out, gets the instruction at the head of the first question.
    Raises UserError if the tokenizer has no chat template, or it refuses the conversation.
    """
    if not tokenizer.chat_template:
        raise UserError("the model's tokenizer has no chat template; set template.chat=False")
    system, attempts, problem = "", [conversation], "it leaves the instruction out"
    if conversation[0]["role"] == "system":
        system, first = conversation[0]["content"], conversation[1]
        attempts.append([{**first, "content": f"{system}\n\n{first['content']}"}, *conversation[2:]])
    for attempt in attempts:
        try:
            text = tokenizer.apply_chat_template(attempt, tokenize=False, add_generation_prompt=True)
        except jinja2.TemplateError as error:
            problem = str(error)
        else:
            if system in text:
                return text
    raise UserError(f"the model's chat template refused the conversation ({problem}); set template.chat=False")


def _check(field: str, count: int, known: tuple[Demonstration, ...], task: Task, skip: int = 0) -> None:
    """Raises UserError if the task has fewer demonstrations than `count` after the skipped ones."""
    if skip + count > len(known):
        kind, after = (
            field.replace("shots", "demonstrations").replace("_", " "),
            f" after {skip} skipped" if skip else "",
        )
        raise UserError(
            f"context.{field} is {count}{after}, but task {task.name!r} has {len(known)} {kind}; "
            "ask for fewer or write them out in the context"
        )


def _asked(template: Template, context: Context, text: str) -> str:
    return template.ask + question(template, text) + context.request


def _solved(template: Template, context: Context) -> list[tuple[str, str]]:
    """Each demonstration as a question and its answer."""
    numbered = enumerate(context.demonstrations, 1)
    return [_pair(template, context, template.positive, number, example) for number, example in numbered]


def _negatives(template: Template, context: Context) -> list[str]:
    """Each answer not to give, with its question."""
    numbered = enumerate(context.negatives, 1)
    pairs = (_pair(template, context, template.negative, number, example) for number, example in numbered)
    return [asked + answered for asked, answered in pairs]


def _pair(template: Template, context: Context, head: str, number: int, example: Demonstration) -> tuple[str, str]:
    explained = context.explanations and example.explanation
    explanation = template.explanation.replace("{explanation}", example.explanation) if explained else ""
    asked = head.replace("{number}", str(number)) + question(template, example.input)
    return asked, answer(template, example.output) + explanation


def _read(path: str) -> str:
    try:
        text = Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"cannot read the context file {path!r}: {reason}") from None
    if not text:
        raise UserError(f"the context file {path!r} is empty")
    return text
