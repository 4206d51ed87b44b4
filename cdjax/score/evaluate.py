"""Scores: teacher, before, after and baselines, all through one code path.

In: a `Setting` and a student. Out: graded answers, a mean with its interval, and divergences on text that was never
distilled on.
"""

import importlib.resources
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
import numpy as np
from flax import nnx

from cdjax.learn import update
from cdjax.lessons import Update, batches, keep, pairs
from cdjax.lessons.keep import Keep
from cdjax.losses import Objective
from cdjax.model.decoder import Decoder, read_prefix
from cdjax.progress import progress
from cdjax.sampling import Sampling, answers
from cdjax.sampling.generate import Record
from cdjax.sampling.store import Rollout, Store
from cdjax.score import preference
from cdjax.tasks import Example
from cdjax.views import encode
from cdjax.views.context import Context, Template
from cdjax.views.prompts import Prompts
from cdjax.workdir.setting import Setting

FULL_KL = Objective(kind="forward_kl", targets="full")
UNRELATED_TOKENS = 24  # of each continuation on which forgetting is measured
Graded = dict[str, Any]  # lists with one entry an example; `tokens` is the mean of what is read: prompt and answer
COLUMNS = ("operations", "views", "inputs", "expected", "answers", "grades")  # those lists


def score_original(here: Setting) -> None:
    """Stages "teacher" and "before": the first teacher with its context, and what the student begins as without."""
    model, student = here.model(here.original), here.model(here.before)
    here.journal.once("teacher", lambda: grade(here, model, "teacher", examples(here), title="teacher"))

    def before() -> Graded:
        graded = grade(here, student, "student", expected(here), title="before")
        graded["held_out_kl"] = divergence(here, model, student, held_out(here, model))
        return graded | wrong_association(here, student, here.cfg.scored(-1))

    here.journal.once("before", before)


def score_student(here: Setting, params: nnx.State, operations: Sequence[int]) -> Graded:
    """The student's graded answers to these operations without the context, `held_out_kl` and `forgetting`."""
    original, before, student = (here.model(weights) for weights in (here.original, here.before, params))
    graded = grade(here, student, "student", only(expected(here), operations), title="after")
    graded["held_out_kl"] = divergence(here, original, student, held_out(here, original, operations))
    graded["forgetting"] = divergence(here, before, student, unrelated(here, before))
    return graded | wrong_association(here, student, operations)


def wrong_association(here: Setting, model: Decoder, operations: Sequence[int]) -> Graded:
    """`wrong_association`: answers to test inputs under another operation's student view, graded by their own task.

    Every input is asked once, an operation's inputs under all the others in turn (paper, Table 1: a student that
    tells tasks by their inputs, not by what it is shown beside them, is right where it should not be).
    """
    if not here.cfg.score.wrong_association:
        return {}
    right = expected(here)
    shown: list[list[Example]] = [[] for _ in here.tasks]
    own: list[list[int]] = [[] for _ in here.tasks]
    for at, operation in enumerate(operations):
        for turn, example in enumerate(right[operation]):
            view = operations[(at + 1 + turn % (len(operations) - 1)) % len(operations)]
            shown[view].append(example)
            own[view].append(operation)
    return {"wrong_association": grade(here, model, "student", shown, title="under another view", own=own)}


def only(wanted: list[list[Example]], operations: Sequence[int]) -> list[list[Example]]:
    """The examples of these operations; the others keep their place and have none."""
    return [many if number in operations else [] for number, many in enumerate(wanted)]


def examples(here: Setting) -> list[list[Example]]:
    """Each operation's test examples."""
    return [list(task.test[: here.cfg.score.examples]) for task in here.tasks]


def expected(here: Setting) -> list[list[Example]]:
    """The test examples; where a task knows no answers, the teacher's are what a student should agree with."""
    found = here.journal.results()["teacher"]
    said = dict(zip(zip(found["operations"], found["inputs"], strict=True), found["answers"], strict=True))
    return [
        [one if one.output else Example(one.input, said.get((number, one.input), "")) for one in many]
        for number, many in enumerate(examples(here))
    ]


def grade(
    here: Setting,
    model: Decoder,
    side: Literal["teacher", "student"],
    wanted: list[list[Example]],
    *,
    title: str,
    own: list[list[int]] | None = None,
) -> Graded:
    """Greedy answers to every operation's examples under one side's view; the teacher's go through f.

    Where no answer is known the teacher's own is right; where an example rejects one, the grade is whether its output
    is more likely, and `magnitudes` says by how much. `over_budget` counts examples left out, under both views.
    `own` says which operation each example is of and graded as, where that is not the one under whose view it is shown.
    """
    graded: Graded = {name: [] for name in COLUMNS} | {"over_budget": 0}
    lengths, magnitudes = [], []
    for number, (operation, many) in enumerate(zip(here.cfg.operations(), wanted, strict=True)):
        if not many:
            continue
        views = here.views(number, [one.input for one in many])
        prompts = getattr(views, side)
        graded["over_budget"] += views.dropped
        fitting = set(prompts.inputs)
        asked = zip(own[number] if own else [number] * len(many), many, strict=True)
        left = [one for one in asked if one[1].input in fitting]
        rollouts = greedy(here, model, prompts, title=title)
        liked = preference.compare(here, model, side, number, prompts, [example for _, example in left])
        for rollout, row, like, (of, example) in zip(rollouts, prompts.own, liked, left, strict=True):
            said = keep.answer_text(here.tokenizer, rollout.ids, here.stops, here.cfg.template.stop)
            if side == "teacher":
                said = keep.extract(operation.keep, said) or ""
            if side == "teacher" and not example.output:
                example = Example(example.input, said)
            graded["operations"].append(of)
            graded["views"].append(number)
            graded["inputs"].append(rollout.input)
            graded["expected"].append(example.output)
            graded["answers"].append(said)
            graded["grades"].append(like.grade if like else float(here.tasks[of].grade(example, said)))
            magnitudes.append(like.magnitude if like else None)
            lengths.append(sum(len(context) + len(row) + len(rollout.ids) for context in prompts.contexts))
    graded["tokens"] = float(np.mean(lengths))
    return graded | ({"magnitudes": magnitudes} if any(one is not None for one in magnitudes) else {})


def held_out(
    here: Setting, original: Decoder, operations: Sequence[int] | None = None
) -> Iterator[tuple[np.ndarray, list[pairs.Pair]]]:
    """For each operation its context, and the original teacher's answers to inputs never distilled on, cut by f."""
    for number, (operation, task) in enumerate(zip(here.cfg.operations(), here.tasks, strict=True)):
        texts = task.held_out[: here.cfg.score.held_out]
        if not texts or (operations is not None and number not in operations):
            continue
        views = here.views(number, texts)
        store = Store(here.workdir / "rollouts" / "held_out" / f"operation_{number}")
        rollouts = greedy(here, original, views.teacher, title="held-out answers", store=store)
        f = Keep(operation.keep.span, operation.keep.pattern, filters=())
        kept, _ = keep.keep(rollouts, here.tokenizer, f, here.stops, stop=here.cfg.template.stop)
        budget = here.cfg.limits.completion
        yield views.teacher.context, pairs.pair(kept, views.teacher, views.student, completion_budget=budget)


def unrelated(here: Setting, original: Decoder) -> Iterator[tuple[np.ndarray, list[pairs.Pair]]]:
    """A model's continuations of sentences unrelated to any task; both sides see the same."""
    lines = (importlib.resources.files("cdjax.tasks") / "data" / "unrelated.txt").read_text("utf-8").splitlines()
    lines = lines[: here.cfg.score.forgetting]
    if not lines:
        return
    none = np.zeros(0, np.int32)
    plain = Template(question="{input}")
    prompts, _ = encode.prompts(
        here.tokenizer, plain, Context(), here.tasks[0], lines, budget=sys.maxsize, overflow="error"
    )
    own = prompts.whole
    rollouts = answers.sample(
        original,
        here.mesh,
        Prompts(tuple(lines), none, own),
        stops=none,
        sampling=Sampling(temperature=0.0, batch=here.cfg.sampling.batch),
        record=Record(),
        steps=UNRELATED_TOKENS,
        seed=0,
        store=Store(here.workdir / "rollouts" / "unrelated"),
    )
    yield none, [pairs.hard(prompt, prompt, one.ids) for prompt, one in zip(own, rollouts, strict=True)]


def greedy(here: Setting, model: Decoder, prompts: Prompts, *, title: str, store: Store | None = None) -> list[Rollout]:
    """The most likely answer to each prompt, token by token."""
    with progress(title, len(prompts.inputs)) as advance:
        return answers.sample(
            model,
            here.mesh,
            prompts,
            stops=here.stops,
            sampling=Sampling(temperature=0.0, batch=here.cfg.sampling.batch),
            record=Record(),
            steps=here.cfg.limits.completion,
            seed=0,
            store=store,
            progress=advance,
        )


def divergence(
    here: Setting, original: Decoder, student: Decoder, parts: Iterator[tuple[np.ndarray, list[pairs.Pair]]]
) -> float | None:
    """Mean KL(original under the teacher's view || student) in nats a token, full vocabulary; None without text."""
    total = count = 0.0
    for context, found in parts:
        prefix = read_prefix(original, context) if len(context) else None
        for batch in batches.Batches(found, Update(batch=here.cfg.update.batch), 0, here.mesh, teacher=True):
            sums = _sums(student, original, prefix, batch)
            total, count = total + float(sums["kl"]), count + float(sums["count"])
    return total / count if count else None


def summary(
    metric: str, grades: Sequence[Sequence[float]], magnitudes: Sequence[Sequence[float | None]] = ()
) -> dict[str, Any]:
    """One entry of `scores` in results.json; both are [seeds][examples], `magnitude` is there where some are known."""
    per_seed = [float(np.mean(seed)) for seed in grades]
    mean, n = float(np.mean(per_seed)), len(grades[0])
    known = [one for seed in magnitudes for one in seed if one is not None]
    entry = {"metric": metric, "mean": mean, "ci95": list(wilson(mean, n)), "n": n, "per_seed": per_seed}
    return entry | ({"magnitude": float(np.mean(known))} if known else {})


def wilson(mean: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % score interval for the mean of n grades in 0 .. 1; for grades between 0 and 1 never too narrow.

    n counts distinct examples: further seeds answer the same ones, so they do not narrow it.
    """
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


@jax.jit
def _sums(student, original, prefix, batch):
    return update.batch_loss(student, original, prefix, batch, objective=FULL_KL)[1]
