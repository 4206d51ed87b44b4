"""Cross-entropy on written answers: the teacher before the first round, and baselines that have the same labels.

In: a `Run` and how to fine-tune. Out: trained weights, graded answers. Stages like those of a round: killed and resumed
equals never killed.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cdjax.config import Supervised
from cdjax.distill import scores, stages
from cdjax.distill.opening import Run
from cdjax.learn import Optim, optim, search, update
from cdjax.learn.checkpoint import Checkpoints
from cdjax.lessons import Update, batches, pairs
from cdjax.lessons.labelled import Solved, solved
from cdjax.losses.cross_entropy import CrossEntropy
from cdjax.parallel import batch_parts
from cdjax.progress import progress
from cdjax.sampling import answers
from cdjax.sampling.targets.labels import Labels
from cdjax.students import Trainable
from cdjax.views import render

HARD = Labels(), (CrossEntropy(),)


def with_teacher(run: Run) -> Run:
    """The run with the first teacher's weights: the model's, fine-tuned if the experiment says so."""
    if not run.cfg.teacher.examples:
        return run
    original = fine_tune(run, run.cfg.teacher, 0, "teacher", "teacher")
    return dataclasses.replace(run, models=dataclasses.replace(run.models, original=original))


def baseline(run: Run, seed: int, number: int) -> None:
    """Fine-tunes for one of `score.supervised`, and grades its test answers as a student's."""
    cfg = run.cfg.score.supervised[number]
    stage = f"seed {seed}/{cfg.name}"
    if run.journal.done(f"{stage}/score"):
        return
    student = run.reader(fine_tune(run, cfg, seed, stage, f"seed_{seed}/supervised_{number}"))
    grade = functools.partial(run.exam.grade, student, "student", scores.expected(run), title=cfg.name)
    run.journal.once(f"{stage}/score", grade)


def fine_tune(run: Run, cfg: Supervised, seed: int, stage: str, folder: str | Path) -> Trainable:
    """The trainable state after the fine-tuning; goes on from its last checkpoint if there is one."""
    examples = [example for labelled in cfg.examples for example in run.labelled(labelled)]
    steps = batches.Batches(taught(examples), cfg.update, seed, run.mesh)
    tx = optim.make(cfg.optim, len(steps))
    start = run.models.start(seed, cfg.start)
    taught_by = answers.identity(run.reader(start))
    checkpoints = Checkpoints(run.workdir / "checkpoints" / folder)
    begun = update.start(start, tx, run.mesh)
    state = stages.resume(run, f"{stage}/tune", checkpoints, len(steps), begun, tx, taught_by)

    def train() -> dict[str, int]:
        nonlocal state
        with checkpoints.writing() as write:

            def save(tree: Any, number: int) -> None:
                write(number, tree, {"teacher": taught_by, "step": number, "steps": len(steps)})

            step, every = stages.compiled_update(run, tx, *HARD, of=stage), cfg.update.checkpoint_every
            log = functools.partial(run.metrics.append, seed=seed, stage=f"{stage}/tune")
            state = _descend(steps, step, state, title=stage, log=log, save=save, every=every)
            save(state.params, len(steps))
        return {"steps": len(steps), "pairs": len(examples)}

    run.journal.once(f"{stage}/tune", train)
    return state.params


def gradient_descent(run: Run, seed: int) -> dict[str, Any]:
    """The paper's baseline, fine-tuning on the demonstrations themselves instead of distilling them.

    Graded test answers of the grid point (learning rate, epochs) that did best on validation examples, which are
    labelled and which distillation never sees; `chosen`, and the `grid` that it was chosen from.
    """
    cfg = run.cfg.score.baseline
    batch = max(cfg.batch, batch_parts(run.mesh))  # each device needs a pair
    steps = batches.Batches(_demonstrations(run), Update(epochs=cfg.epochs, batch=batch), seed, run.mesh)
    step = stages.compiled_update(run, optim.make(Optim(), len(steps)), *HARD, of="baseline")

    def train(lr: float, score: search.Point) -> None:
        an_epoch = len(steps) // cfg.epochs
        tx = optim.make(Optim(lr=lr), len(steps))
        state = _descend(
            steps,
            step,
            update.start(run.models.start(seed, run.cfg.start), tx, run.mesh),
            title=f"baseline, lr {lr:g}",
            save=lambda state, number: score(number // an_epoch, state.params),
            every=an_epoch * cfg.every,
        )
        score(cfg.epochs, state.params)

    score = stages.validation(run, run.cfg.scored(-1))
    params, told = search.search(cfg.lrs, train, score, title="baseline")
    return run.exam.grade(run.reader(params), "student", run.exam.tests(), title="baseline") | told


def taught(examples: Sequence[Solved]) -> list[pairs.Pair]:
    """Written answers as the pairs that an update learns from."""
    return [pairs.hard(prompt, prompt, answer) for prompt, answer in examples]


def _demonstrations(run: Run) -> list[pairs.Pair]:
    """The demonstrations of every operation's context under the student's view, with their written answers."""
    examples: list[Solved] = []
    for assignment in run.assignments:
        views = assignment.views
        shown = render.complete(views.teacher.context, assignment.task).demonstrations
        examples += solved(views.student, shown)
    return taught(examples)


def _descend(
    steps: batches.Batches,
    step: stages.Step,
    state: update.TrainState,
    *,
    title: str,
    save: Callable[[update.TrainState, int], None],
    every: int,
    log: Callable[..., None] = lambda **line: None,
) -> update.TrainState:
    """The steps that are left; `save` after every `every` steps, but not after the last."""
    with progress(title, len(steps), done=int(state.step)) as advance:

        def on_step(number: int, values: dict[str, float]) -> None:
            advance(1, loss=values["loss"])
            log(step=number, **values)

        return update.train(step, state, steps, on_step=on_step, save=save, every=every)
