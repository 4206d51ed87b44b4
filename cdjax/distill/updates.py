"""The updates of a segment: one compiled step, from its last checkpoint on, or a search over learning rates.

In: `Round`, what its learner begins as, lessons. Out: a `TrainState`. A student, its baselines and trained teachers
learn here alike.
"""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import optax
from jaxtyping import Int32

from cdjax.distill.plan import Round
from cdjax.errors import UserError
from cdjax.learn import optim, search, update
from cdjax.lessons import batches, pairs
from cdjax.model.reader import Reader
from cdjax.progress import progress, tell_compilations
from cdjax.sampling import answers
from cdjax.score import exam
from cdjax.students import Trainable

Step: TypeAlias = Callable[..., Any]  # the compiled update with what does not change in a round filled in


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What one operation gives a segment to learn from; the teacher's prompts all begin with `context`."""

    pairs: list[pairs.Pair]
    context: Int32[np.ndarray, "P"]


def learn(
    segment: Round,
    begin: Trainable,
    teacher: Trainable | None,
    lessons: list[Lesson],
    state: update.TrainState | None,
    planned: int,
) -> update.TrainState:
    """A segment's updates, from its last checkpoint if there is one; optimizer and schedule go on from `state`."""
    run, training = segment.run, segment.training
    shown = solved(segment)
    examples = _together(lessons) + shown
    epochs = training.update.epochs if segment.segment is None else 1
    pieces = dataclasses.replace(training.update, epochs=epochs)
    made = batches.Batches(examples, pieces, segment.shuffle(), run.mesh, teacher=training.rereads)
    steps = update.Later(made, 0 if state is None else int(state.step))
    tx = optim.make(training.optim, planned or len(steps))
    checkpoints, last = segment.checkpoints(), segment.segment == segment.last().segment
    taught_by = " and ".join(map(answers.identity, run.teaching(teacher)))
    about = {"seed": segment.seed, "round": segment.number, "teacher": taught_by}

    def train() -> dict[str, Any]:
        nonlocal state
        step = compiled_update(segment, tx, _rereading(segment, teacher, lessons))
        with checkpoints.writing() as write:

            def save(tree: Any, number: int) -> None:
                write(number, tree, about | {"step": number, "steps": len(steps)})

            told = {"steps": len(made), "step": len(steps), "pairs": len(examples), "solved": len(shown)}
            if training.tune.lrs:
                params, grid = _search(segment, begin, step, steps)
                state, told = update.TrainState(params, (), np.int32(len(steps))), told | grid
            else:
                begun = update.start(begin, tx, run.mesh) if state is None else state
                begun = _resumed(segment, begun, tx, len(steps), taught_by, last=last)
                every = training.update.checkpoint_every
                rates = optim.rates(training.optim, planned or len(steps))
                state = _descend(segment, begun, step, steps, rates, save=save, every=every)
            save(state.params if last else state, len(steps))
        return told

    run.journal.once(segment.stage("update"), train)
    assert state is not None
    _forget(segment)
    return state


def solved(round: Round) -> list[pairs.Pair]:
    """The solved examples of sources that have some; targets say of them that the teacher is certain."""
    training, vocab = round.training, round.learner.side.model.decoder.spec.vocab
    known = round.run.known(round.learner.teacher)
    examples = [example for source in training.shows for example in source.solved(known)]
    certain = training.targets.certain
    return [pairs.hard(prompt, prompt, answer, certain(answer.astype(np.int32), vocab)) for prompt, answer in examples]


def _forget(segment: Round) -> None:
    """Deletes what no later stage reads: of the segment before this one, and of the round before the last one."""
    for kind, back in (("checkpoints", 1), ("teachers", 2)):  # the segment's own teacher is that after the one before
        if segment.segment is not None and segment.segment >= back:
            old = dataclasses.replace(segment, segment=segment.segment - back)
            shutil.rmtree(old.folder(kind), ignore_errors=True)
    if segment.student and segment.number > 1:  # the round before may be this one's teacher
        old = dataclasses.replace(segment, number=segment.number - 2, segment=None)
        for kind in ("checkpoints", "teachers"):
            shutil.rmtree(old.folder(kind), ignore_errors=True)


def _search(round: Round, begin: Trainable, step: Step, steps: update.Steps) -> tuple[Trainable, dict[str, Any]]:
    """The round's updates at every learning rate of `tune.lrs`: the weights that validation examples favour."""
    run, training = round.run, round.training
    an_epoch = len(steps) // training.update.epochs

    def train(lr: float, score: search.Point) -> None:
        rate = dataclasses.replace(training.optim, lr=lr)
        state = _descend(
            round,
            update.start(begin, optim.make(rate, len(steps)), run.mesh),
            step,
            steps,
            optim.rates(rate, len(steps)),
            save=lambda state, number: score(number // an_epoch, state.params),
            every=an_epoch * training.tune.every,
            stage=f"update, lr {lr:g}",
        )
        score(training.update.epochs, state.params)

    score = validator(round)
    return search.search(training.tune.lrs, train, score, title=_title(round))


def validator(round: Round) -> Callable[[Trainable, str], float]:
    """What scores weights: accuracy on the first `score.validation` validation examples, under the student's view."""
    run, count = round.run, round.run.cfg.score.validation
    validation = [list(assignment.task.validation[:count]) for assignment in run.assignments]
    examples = exam.of_operations(validation, run.cfg.scored(round.number))

    def accuracy(params: Trainable, title: str) -> float:
        reader = round.learner.side.reader(params)
        return float(np.mean(run.exam.grade(reader, "student", examples, title=title)["grades"]))

    return accuracy


def _descend(
    segment: Round,
    state: update.TrainState,
    step: Step,
    steps: update.Steps,
    rates: Sequence[float],
    *,
    save: Callable[[update.TrainState, int], None],
    every: int,
    stage: str = "update",
) -> update.TrainState:
    """The steps that are left; `save` after every `every` steps, but not after the last."""
    line = segment.line() | {"stage": stage}
    with (
        progress(_title(segment), len(steps), done=int(state.step)) as advance,
        segment.run.profile.steps("update", len(steps) - int(state.step)) as tick,
    ):

        def on_step(number: int, values: dict[str, float]) -> None:
            segment.run.metrics.append(**line, step=number, lr=rates[number - 1], **values)
            advance(1, loss=values["loss"])
            tick()

        return update.train(step, state, steps, on_step=on_step, save=save, every=every)


def _title(round: Round) -> str:
    """Who learns, for people."""
    return (
        f"student, seed {round.seed}"
        if round.student
        else ", ".join(f"{kind} {value}" for kind, value in round.learner.place)
    )


def restore(round: Round) -> Trainable:
    """The trainable state that a finished round left."""
    last = round.last()
    return last.checkpoints().load(round.run.journal.results()[last.stage("update")]["step"], round.learner.side.base)


def ended(segment: Round, student: Trainable, planned: int) -> update.TrainState:
    """The state that a finished segment left for the next one, optimizer and all."""
    run, step = segment.run, segment.run.journal.results()[segment.stage("update")]["step"]
    return segment.checkpoints().load(
        step, update.abstract(student, optim.make(segment.training.optim, planned), run.mesh)
    )


def _resumed(
    segment: Round,
    begun: update.TrainState,
    tx: optax.GradientTransformation,
    steps: int,
    taught_by: str,
    *,
    last: bool,
) -> update.TrainState:
    """The state of the last checkpoint, or the one it begins with. Raises UserError if it had another teacher.

    After all `steps` the checkpoint of a `last` segment holds the trained weights only: what the optimizer knew is of
    no more use.
    """
    run, checkpoints = segment.run, segment.checkpoints()
    latest = checkpoints.latest()
    if latest is None:
        return begun
    if checkpoints.progress(latest)["teacher"] != taught_by:
        raise UserError(f"{run.workdir}: the checkpoint of {segment.stage('update')!r} had another teacher")
    if latest < steps or not last:
        return checkpoints.load(latest, update.abstract(begun.params, tx, run.mesh))
    return dataclasses.replace(begun, params=checkpoints.load(latest, begun.params), step=np.int32(steps))


def compiled_update(round: Round, tx: optax.GradientTransformation, teacher: Reader | None = None) -> Step:
    """The compiled update of a state by a batch, for every learning rate, which is part of the state."""
    side, training = round.learner.side, round.training
    step = update.make_update(side.student, tx, training.targets, training.losses, round.run.mesh)
    return tell_compilations(
        lambda state, batch: step(state, side.frozen, teacher, batch),
        lambda _, batch: f"the update{'' if round.student else f' of {_title(round)}'} for {batch}",
    )


def _rereading(round: Round, params: Trainable | None, lessons: list[Lesson]) -> Reader | None:
    """For targets that an update reads itself, the teacher, which has read every lesson's context."""
    if not round.training.rereads:
        return None
    return round.run.teaching(params)[0].after(*(lesson.context for lesson in lessons))


def _together(lessons: list[Lesson]) -> list[pairs.Pair]:
    """All pairs of a segment; each says which lesson's context its teacher reads."""
    return [dataclasses.replace(pair, context=number) for number, lesson in enumerate(lessons) for pair in lesson.pairs]
