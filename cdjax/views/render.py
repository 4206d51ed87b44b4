"""A context and one input -> text, by a plain template or by the tokenizer's chat template.

In: Context, Template, Task, input. Out: text (encode.py).
"""

import dataclasses
from pathlib import Path
from typing import Any

import jinja2

from cdjax.config import Context, Demonstration, Template, UserError
from cdjax.tasks.task import Task

Tokenizer = Any  # transformers' PreTrainedTokenizerBase; to import it costs a second
Message = dict[str, str]


def complete(context: Context, task: Task) -> Context:
    """The context with its file read into the instruction and the task's first `shots` demonstrations written out."""
    if context.file and context.instruction:
        raise UserError(f"a context has an instruction and the file {context.file!r} in its place; give one of them")
    if context.shots > len(task.demonstrations):
        raise UserError(
            f"context.shots is {context.shots}, but task {task.name!r} has {len(task.demonstrations)} demonstrations; "
            "ask for fewer or write them out in context.demonstrations"
        )
    demonstrations = context.demonstrations + task.demonstrations[: context.shots]
    if context.explanations and not any(d.explanation for d in demonstrations):
        raise UserError("context.explanations is on, but no demonstration has an explanation")
    instruction = _read(context.file) if context.file else context.instruction
    return dataclasses.replace(context, instruction=instruction, file="", demonstrations=demonstrations, shots=0)


def question(template: Template, text: str) -> str:
    """How the template asks one input."""
    return template.question.replace("{input}", text)


def answer(template: Template, output: str) -> str:
    """How the template answers."""
    return template.answer.replace("{output}", output)


def prompt(tokenizer: Tokenizer, template: Template, context: Context, text: str) -> str:
    """The input under a complete context, as the template asks: ends where the answer begins."""
    if template.chat:
        return chat(tokenizer, messages(template, context, text))
    return plain(template, context, text)


def plain(template: Template, context: Context, text: str) -> str:
    """The input under a complete context as plain text."""
    parts = [template.system.replace("{instruction}", context.instruction)] if context.instruction else []
    for demonstration in context.demonstrations:
        parts += [question(template, demonstration.input), _solution(template, context, demonstration)]
    return "".join([*parts, question(template, text), context.request])


def messages(template: Template, context: Context, text: str) -> list[Message]:
    """The input under a complete context as a conversation: system, then user and assistant in turn."""
    turns = [("system", context.instruction)] if context.instruction else []
    for demonstration in context.demonstrations:
        turns.append(("user", question(template, demonstration.input)))
        turns.append(("assistant", _solution(template, context, demonstration)))
    turns.append(("user", question(template, text) + context.request))
    return [{"role": role, "content": content.strip()} for role, content in turns]


def chat(tokenizer: Tokenizer, conversation: list[Message]) -> str:
    """The conversation by the tokenizer's chat template, up to and with the marker that opens the answer.

    A template that refuses a system message, or leaves it out, gets the instruction at the head of the first question.
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


def _solution(template: Template, context: Context, demonstration: Demonstration) -> str:
    explained = context.explanations and demonstration.explanation
    explanation = template.explanation.replace("{explanation}", demonstration.explanation) if explained else ""
    return answer(template, demonstration.output) + explanation


def _read(path: str) -> str:
    try:
        text = Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"cannot read the context file {path!r}: {reason}") from None
    if not text:
        raise UserError(f"the context file {path!r} is empty")
    return text
