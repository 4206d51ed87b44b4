"""How far a student is from a teacher on text that was never distilled on: KL over the whole vocabulary."""

import dataclasses
import importlib.resources
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import Int32

from cdjax.learn import update
from cdjax.lessons import Update, batches, keep, pairs
from cdjax.losses import Objective
from cdjax.model.cache import Prefix
from cdjax.model.decoder import Decoder, read_prefix
from cdjax.sampling import Sampling, answers
from cdjax.sampling.generate import Record
from cdjax.sampling.store import Store
from cdjax.score.exam import Exam
from cdjax.tasks.task import Task
from cdjax.views.context import Context, Template
from cdjax.views.prompts import Prompts
from cdjax.views.render import Tokenizer
from cdjax.views.view import Format, View

FULL_KL = Objective(kind="forward_kl", targets="full")
NOTHING = np.zeros(0, np.int32)
NO_TASK = Task(name="text", metric="none", grade=lambda example, answer: 0.0)
UNRELATED_TOKENS = 24  # of each continuation on which forgetting is measured
Texts: TypeAlias = tuple[Int32[np.ndarray, "P"], list[pairs.Pair]]  # the teacher's context, and what both sides read


def divergence(
    teacher: Decoder, student: Decoder, texts: Iterable[Texts], mesh: jax.sharding.Mesh, batch: int
) -> float | None:
    """Mean KL(teacher under its view || student) in nats a token; None without text."""
    total = count = 0.0
    for context, read in texts:
        prefix = read_prefix(teacher, context) if len(context) else None
        for rows in batches.Batches(read, Update(batch=batch), 0, mesh, teacher=True):
            sums = _sums(student, teacher, prefix, rows)
            total, count = total + float(sums["kl"]), count + float(sums["count"])
    return total / count if count else None


def held_out(
    exam: Exam, teacher: Decoder, inputs: int, store: Path, operations: Sequence[int] | None = None
) -> Iterator[Texts]:
    """The teacher's greedy answers to at most `inputs` held-out inputs of every operation, cut by f."""
    for number, assignment in enumerate(exam.assignments):
        texts = assignment.task.held_out[:inputs]
        if not texts or (operations is not None and number not in operations):
            continue
        shown, format = assignment.views.prompts(texts), assignment.views.teacher.format
        rollouts = exam.greedy(
            teacher, shown.teacher, format.stops, title="held-out answers", store=Store(store / f"operation_{number}")
        )
        span = dataclasses.replace(assignment.keep, filters=(), majority=False)
        kept, _ = keep.keep(rollouts, format, span)
        yield shown.teacher.context, pairs.pair(kept, shown.teacher, shown.student, completion_budget=exam.steps)


def unrelated(
    model: Decoder, mesh: jax.sharding.Mesh, tokenizer: Tokenizer, lines: int, batch: int, store: Path
) -> Iterator[Texts]:
    """A model's continuations of sentences unrelated to any task; both sides see the same."""
    texts = (importlib.resources.files("cdjax.tasks") / "data" / "unrelated.txt").read_text("utf-8").splitlines()
    texts = texts[:lines]
    if not texts:
        return
    format = Format(tokenizer, Template(question="{input}"), NOTHING)
    prompts, _ = View(format, Context(), NO_TASK, sys.maxsize).prompts(texts)
    rollouts = answers.sample(
        model,
        mesh,
        Prompts(tuple(texts), NOTHING, prompts.whole),
        stops=NOTHING,
        sampling=Sampling(temperature=0.0, batch=batch),
        record=Record(),
        steps=UNRELATED_TOKENS,
        seed=0,
        store=Store(store),
    )
    read = zip(prompts.whole, rollouts, strict=True)
    yield NOTHING, [pairs.hard(prompt, prompt, rollout.ids) for prompt, rollout in read]


@jax.jit
def _sums(student: Decoder, teacher: Decoder, prefix: Prefix | None, rows: pairs.PairBatch) -> dict[str, Any]:
    return update.batch_loss(student, teacher, prefix, rows, objective=FULL_KL)[1]
