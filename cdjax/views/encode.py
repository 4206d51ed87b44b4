"""The only place that tokenises: views of task inputs -> token ids, and ids -> text.

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
    """The view of every input, at most `budget` tokens each, and the inputs dropped because theirs is longer.

    Every row has a context of its own; what all rows begin with is shared. In an ensemble each of an input's prompts
    has that budget. Raises UserError naming the input that is over budget (overflow "error") or that renders to no
    token at all.
    """
    every, members = [], functools.cache(render.members)
    rows = render.rows(context, task, inputs)
    for number in range(max(1, context.ensemble)):
        shown = zip(rows, inputs, strict=True)
        texts = [render.prompt(tokenizer, template, members(row)[number], text) for row, text in shown]
        every.append(_encode(tokenizer, texts, chat=template.chat))
    return _fit(inputs, every, budget=budget, overflow=overflow)


def answers(
    tokenizer: Tokenizer,
    template: Template,
    context: Context,
    task: Task,
    demonstrations: Sequence[Demonstration],
) -> list[Int32[np.ndarray, "_"]]:
    """The ids that follow each demonstration's input under a view when its answer is the written one, stop included.

    Raises UserError if the tokenizer joins the end of the prompt with the answer: the view could not produce it.
    """
    rows = render.rows(context, task, [one.input for one in demonstrations])
    found = []
    for row, one in zip(rows, demonstrations, strict=True):
        prompt = render.prompt(tokenizer, template, row, one.input)
        answer = render.answer(template, one.output)
        answer = answer.strip() + (tokenizer.eos_token or "") if template.chat else answer
        head, whole = _encode(tokenizer, [prompt, prompt + answer], chat=template.chat)
        if whole[: len(head)] != head or len(whole) == len(head):
            raise UserError(
                f"the answer {one.output!r} to {one.input!r} does not begin at a token; change the template"
            )
        found.append(np.array(whole[len(head) :], np.int32))
    return found


def stop_ids(tokenizer: Tokenizer, template: Template, end_ids: Iterable[int]) -> Int32[np.ndarray, "_"]:
    """The ids that end an answer: the model's own, and in plain text every token that contains `template.stop`."""
    ids = {int(i) for i in end_ids}
    if not template.chat and template.stop:
        pieces = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], clean_up_tokenization_spaces=False)
        found = {i for i, piece in enumerate(pieces) if template.stop in piece}
        if not found:
            raise UserError(f"no token of the model contains template.stop {template.stop!r}; choose a shorter one")
        ids |= found
    if not ids:
        raise UserError("nothing would end an answer: the model has no end token and template.stop is empty")
    return np.array(sorted(ids), np.int32)


def same_vocabulary(tokenizer: Tokenizer, other: Tokenizer) -> bool:
    """Whether every id is the same piece of text in both."""
    return tokenizer is other or tokenizer.get_vocab() == other.get_vocab()


def input_writer(tokenizer: Tokenizer, template: Template, task: Task, cfg: Inputs, seed: int) -> Prompts:
    """`cfg.written` prompts that the model continues with a new input, see writer.py; a prompt's name is its number."""
    rows = _encode(tokenizer, writer.texts(tokenizer, template, task, cfg, seed), chat=template.chat)
    longest = max(map(len, rows), default=0)
    return _fit([str(i) for i in range(len(rows))], [rows], budget=longest, overflow="error")[0]


def decode(tokenizer: Tokenizer, ids: Int[np.ndarray, "_"]) -> str:
    """The text of some ids, special tokens included, nothing tidied up."""
    return tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _encode(tokenizer: Tokenizer, texts: list[str], *, chat: bool) -> list[list[int]]:
    """Whole texts as ids. BOS comes once: from the chat template's own text, in plain text by the tokenizer's rule."""
    if not texts:
        return []
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    bos = tokenizer.bos_token_id
    if chat or bos is None or tokenizer("")["input_ids"][:1] != [bos]:
        return rows
    return [row if row[:1] == [bos] else [bos, *row] for row in rows]


def _fit(
    inputs: Sequence[str], every: list[list[list[int]]], *, budget: int, overflow: str
) -> tuple[Prompts, list[str]]:
    """`every` has the rows of all inputs under each context."""
    longest = [max(map(len, rows)) for rows in zip(*every, strict=True)]
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
    parts = [_parts(list(itertools.compress(rows, fits))) for rows in every]
    (context, own), *more = parts
    for _, also in more:
        if [ids.tolist() for ids in also] != [ids.tolist() for ids in own]:
            raise UserError("the prompts of an ensemble end in different tokens for one input; change the template")
    others = tuple(other for other, _ in more)
    return Prompts(tuple(itertools.compress(inputs, fits)), context, own, others), dropped


def _parts(rows: list[list[int]]) -> tuple[Int32[np.ndarray, "P"], tuple[Int32[np.ndarray, "_"], ...]]:
    """What all rows begin with, and each one's own part."""
    shared = len(os.path.commonprefix(rows))
    # The last token stays the row's own, also when all prompts are equal: the answer is predicted from it.
    shared = min([shared, *(len(row) - 1 for row in rows)])
    return np.array(rows[0][:shared] if rows else [], np.int32), tuple(np.array(row[shared:], np.int32) for row in rows)
