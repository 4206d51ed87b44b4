"""Views of task inputs -> token ids, and ids -> text: the only module that tokenises.

In: Task, Context, Template, inputs. Out: Prompts (sampling/, lessons/pairs.py), stop ids, decoded text.
"""

import functools
import itertools
import os.path
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int, Int32

from cdjax.errors import UserError
from cdjax.tasks.inputs import Inputs
from cdjax.tasks.task import Demonstration, Task
from cdjax.views import render, writer
from cdjax.views.context import Context, Template
from cdjax.views.prompts import Prompts
from cdjax.views.render import Tokenizer


def prompts(
    tokenizer: Tokenizer,
    template: Template,
    context: Context,
    task: Task,
    inputs: Sequence[str],
    *,
    budget: int,
    overflow: Literal["error", "drop"],
) -> tuple[Prompts, list[str]]:
    """The prompts of the inputs, at most `budget` tokens each, and the inputs dropped because their prompt is longer.

    The longest common prefix of all rows is their shared context. In an ensemble each of an input's prompts may have
    `budget` tokens. Raises UserError naming the input that is over budget (overflow "error") or that renders to no
    token at all.
    """
    by_member, members = [], functools.cache(render.members)
    rows = render.rows(context, task, inputs)
    for number in range(max(1, context.ensemble)):
        shown = zip(rows, inputs, strict=True)
        texts = [render.prompt(tokenizer, template, members(row)[number], text) for row, text in shown]
        by_member.append(_encode(tokenizer, texts, chat=template.chat))
    return _fit(inputs, by_member, budget=budget, overflow=overflow)


def answers(
    tokenizer: Tokenizer,
    template: Template,
    context: Context,
    task: Task,
    demonstrations: Sequence[Demonstration],
) -> list[Int32[np.ndarray, "_"]]:
    """The ids of each demonstration's output as the answer to its input under a view, stop included.

    Raises UserError if the tokenizer joins the end of the prompt with the answer: the view could not produce it.
    """
    rows = render.rows(context, task, [example.input for example in demonstrations])
    ids = []
    for row, example in zip(rows, demonstrations, strict=True):
        prompt = render.prompt(tokenizer, template, row, example.input)
        answer = render.answer(template, example.output)
        answer = answer.strip() + (tokenizer.eos_token or "") if template.chat else answer
        head, whole = _encode(tokenizer, [prompt, prompt + answer], chat=template.chat)
        if whole[: len(head)] != head or len(whole) == len(head):
            raise UserError(
                f"the answer {example.output!r} to {example.input!r} does not begin at a token; change the template"
            )
        ids.append(np.array(whole[len(head) :], np.int32))
    return ids


def stop_ids(tokenizer: Tokenizer, template: Template, end_ids: Iterable[int]) -> Int32[np.ndarray, "_"]:
    """The ids that end an answer: the model's end tokens, and in plain text all tokens that contain `template.stop`.

    Raises UserError if there are none.
    """
    ids = {int(i) for i in end_ids}
    if not template.chat and template.stop:
        pieces = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], clean_up_tokenization_spaces=False)
        of_template = {i for i, piece in enumerate(pieces) if template.stop in piece}
        if not of_template:
            raise UserError(f"no token of the model contains template.stop {template.stop!r}; choose a shorter one")
        ids |= of_template
    if not ids:
        raise UserError("nothing would end an answer: the model has no end token and template.stop is empty")
    return np.array(sorted(ids), np.int32)


def same_vocabulary(tokenizer: Tokenizer, other: Tokenizer) -> bool:
    """Whether both tokenizers have the same token for every id."""
    return tokenizer is other or tokenizer.get_vocab() == other.get_vocab()


def input_writer(tokenizer: Tokenizer, template: Template, task: Task, cfg: Inputs, seed: int) -> Prompts:
    """`cfg.written` prompts that the model continues with a new input, see writer.py; their inputs are "0", "1", .."""
    rows = _encode(tokenizer, writer.texts(tokenizer, template, task, cfg, seed), chat=template.chat)
    longest = max(map(len, rows), default=0)
    return _fit([str(i) for i in range(len(rows))], [rows], budget=longest, overflow="error")[0]


def decode(tokenizer: Tokenizer, ids: Int[np.ndarray, "_"]) -> str:
    """The text of the ids, with special tokens and without clean-up of spaces."""
    return tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _encode(tokenizer: Tokenizer, texts: list[str], *, chat: bool) -> list[list[int]]:
    """The ids of whole texts, with one BOS: a chat template writes it, plain text gets it if the tokenizer adds one."""
    if not texts:
        return []
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    bos = tokenizer.bos_token_id
    if chat or bos is None or tokenizer("")["input_ids"][:1] != [bos]:
        return rows
    return [row if row[:1] == [bos] else [bos, *row] for row in rows]


def _fit(
    inputs: Sequence[str], by_member: list[list[list[int]]], *, budget: int, overflow: str
) -> tuple[Prompts, list[str]]:
    """The prompts within the budget, and the inputs of the others, from all inputs' rows under each context."""
    longest = [max(map(len, rows)) for rows in zip(*by_member, strict=True)]
    dropped = [text for text, length in zip(inputs, longest, strict=True) if length > budget]
    for text, length in zip(inputs, longest, strict=True):
        if not length:
            raise UserError(f"the prompt of input {text!r} has no token; give the template or the context some text")
        if length > budget and (overflow == "error" or len(dropped) == len(inputs)):
            drops = overflow == "drop"
            which = "every prompt is over its budget; the first" if drops else "a prompt is over its budget"
            raise UserError(
                f"{which}, input {text[:80]!r}, is {length} tokens of {budget} allowed; "
                f"raise the limit or shorten the context{'' if drops else ', or set limits.overflow=drop'}"
            )
    fits = [length <= budget for length in longest]
    (context, suffixes), *members = [_split(list(itertools.compress(rows, fits))) for rows in by_member]
    for _, of_member in members:
        if [ids.tolist() for ids in of_member] != [ids.tolist() for ids in suffixes]:
            raise UserError("the prompts of an ensemble end in different tokens for one input; change the template")
    others = tuple(member for member, _ in members)
    return Prompts(tuple(itertools.compress(inputs, fits)), context, suffixes, others), dropped


def _split(rows: list[list[int]]) -> tuple[Int32[np.ndarray, "P"], tuple[Int32[np.ndarray, "_"], ...]]:
    """The longest common prefix of the rows, and each row's suffix after it."""
    shared = len(os.path.commonprefix(rows))
    # A suffix has at least the last token, also if all prompts are equal: the answer is predicted from it.
    shared = min([shared, *(len(row) - 1 for row in rows)])
    return np.array(rows[0][:shared] if rows else [], np.int32), tuple(np.array(row[shared:], np.int32) for row in rows)
