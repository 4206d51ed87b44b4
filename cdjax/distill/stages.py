"""The stages of one round, each a function that is run once and found done by the next run.

In: `Round`, and what the stage before gave. Out: rollouts, pairs, trained weights. All randomness is a function of
seed, round, operation and step: progress is a matter of counting.
"""

import dataclasses
import functools
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np
import optax
from jaxtyping import Int32

from cdjax.distill.opening import Run
from cdjax.errors import UserError
from cdjax.learn import optim, search, update
from cdjax.learn.checkpoint import Checkpoints
from cdjax.lessons import batches, keep, pairs
from cdjax.lessons.filters import Evidence, Kept
from cdjax.lessons.request import Request
from cdjax.losses import Loss, reads_teacher
from cdjax.model.reader import Reader
from cdjax.progress import progress, tell_compilations
from cdjax.sampling import Sampling, answers, slots
from cdjax.sampling.store import Rollout, Store
from cdjax.sampling.targets.labels import Labels
from cdjax.sampling.targets.target import Target
from cdjax.score import distance, exam
from cdjax.students import Trainable
from cdjax.views import encode, writer
from cdjax.views.view import Shown

Step: TypeAlias = Callable[..., Any]  # the compiled update with what does not change in a round filled in
COMPARED = 16  # answers that tell how far int8 weights are: some hundreds of tokens give the mean to a few per cent


@dataclasses.dataclass(frozen=True)
class Round:
    """Which seed and round of a run, the operations that the round distils, and which of its segments is meant."""

    run: Run
    seed: int
    number: int
    operations: tuple[int, ...]
    segment: int | None = None  # None where the round has only one

    def stage(self, name: str, *operation: int) -> str:
        """The stage's name in the journal."""
        return "/".join([*self._place(" "), *(f"operation {number}" for number in operation), name])

    def folder(self, kind: str, *operation: int) -> Path:
        """Where the round's files of a kind are."""
        parts = *self._place("_"), *(f"operation_{number}" for number in operation)
        return self.run.workdir.joinpath(kind, *parts)

    def checkpoints(self) -> Checkpoints:
        """Those of the round's, or the segment's, updates."""
        return Checkpoints(self.folder("checkpoints"))

    def fold(self, purpose: str, *operation: int) -> int:
        """A number for this purpose at this place in the run, to seed what is random there."""
        place = [self.seed, self.number, zlib.crc32(purpose.encode()), *operation]
        place += [] if self.segment is None else [1 + self.segment]
        return int(np.random.SeedSequence(place).generate_state(1)[0] >> 1)

    def segments(self) -> list["Round"]:
        """The round's segments, once it has begun."""
        planned = self.run.journal.results().get(self.stage("segments"))
        if planned is None:
            return [self]
        return [dataclasses.replace(self, segment=number) for number in range(planned["segments"])]

    def last(self) -> "Round":
        """The round's last segment, once it has begun."""
        return dataclasses.replace(self, segment=None).segments()[-1]

    def _place(self, between: str) -> list[str]:
        place = [f"seed{between}{self.seed}", f"round{between}{self.number}"]
        return place + ([] if self.segment is None else [f"segment{between}{self.segment}"])


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What one operation gives a segment to learn from; the teacher's prompts all begin with `context`."""

    pairs: list[pairs.Pair]
    context: Int32[np.ndarray, "P"]


def distil(round: Round, teacher: Trainable | None, student: Trainable) -> Trainable:
    """One round, in segments: answers, the part of them that f keeps, and updates; returns the new student."""
    journal = round.run.journal
    if journal.done(round.segments()[-1].stage("update")):
        return restore(round)
    shown = {operation: show(round, operation) for operation in round.operations}
    planned = plan_segments(round, shown)
    segments = round.segments()
    over = [segment for segment in segments if journal.done(segment.stage("update"))]
    state = ended(over[-1], student, planned) if over else None
    if state is not None:
        student = state.params
        for segment in over[-2:]:  # the teacher of the last one is on disk, its successor may not be yet
            teacher = follow(segment, teacher, student)
    for segment in segments[len(over) :]:
        rows = {operation: dealt(segment, operation, shown[operation], len(segments)) for operation in shown}
        lessons = [teach(segment, operation, rows[operation], teacher, student) for operation in round.operations]
        state = learn(segment, student, teacher, lessons, state, planned)
        student = state.params
        if segment is not segments[-1]:
            teacher = follow(segment, teacher, student)
    return student


def show(round: Round, operation: int) -> Shown:
    """D, as both sides see it."""
    return round.run.assignments[operation].views.prompts(collect_inputs(round, operation))


def collect_inputs(round: Round, operation: int) -> Sequence[str]:
    """D: the pool, other tasks' pools, the file, the rule's draws and what the model wrote, joined."""
    written = write_inputs(round, operation)
    collected = round.run.assignments[operation].collect(written, round.fold("inputs", operation))
    round.run.journal.once(round.stage("inputs", operation), lambda: collected.counts)
    return collected.inputs


def write_inputs(round: Round, operation: int) -> list[str]:
    """Inputs that the original model writes when shown a few others (paper, section 2.1: D sampled from a model)."""
    run, assignment = round.run, round.run.assignments[operation]
    if not assignment.inputs.written:
        return []

    def write() -> list[str]:
        seed, format = round.fold("write", operation), run.format
        prompts = encode.input_writer(format.tokenizer, format.template, assignment.task, assignment.inputs, seed)
        with progress("inputs by the model", assignment.inputs.written) as advance:
            rollouts = answers.sample(
                run.reader(run.models.original),
                run.mesh,
                prompts,
                stops=format.stops,
                sampling=Sampling(batch=run.cfg.sampling.batch),
                targets=Labels(),
                steps=assignment.inputs.written_tokens,
                seed=seed,
                progress=advance,
            )
        return [writer.read(format.template, format.text(rollout.ids), rollout.stopped) for rollout in rollouts]

    return run.journal.once(round.stage("write", operation), write)


def plan_segments(round: Round, shown: Mapping[int, Shown]) -> int:
    """Updates that the round's segments have in all, if every answer is kept; how many segments that makes is noted.

    0 where the round has one segment: then it has as many updates as its pairs make.
    """
    cfg, counts = round.run.cfg, [len(prompts.teacher.inputs) for prompts in shown.values()]
    updates = cfg.update.epochs * -(-sum(counts) * cfg.sampling.per_input // cfg.update.batch)
    if not cfg.update.every or updates <= cfg.update.every:
        return 0
    segments, replayed = -(-updates // cfg.update.every), len(replay(round.run))
    edges = np.sum([shares(cfg.update.epochs * count, segments) for count in counts], 0)
    planned = int(np.ceil((np.diff(edges) * cfg.sampling.per_input + replayed) / cfg.update.batch).sum())
    round.run.journal.once(round.stage("segments"), lambda: {"segments": segments, "planned": planned})
    return planned


def shares(count: int, segments: int) -> list[int]:
    """Where each of so many equal shares of `count` inputs begins, and the end of the last one."""
    return [count * number // segments for number in range(segments + 1)]


def dealt(segment: Round, operation: int, shown: Shown, segments: int) -> Shown:
    """The inputs of a segment: its share of all epochs, each of which goes through the inputs in another order."""
    if segment.segment is None:
        return shown
    whole, count = dataclasses.replace(segment, segment=None), len(shown.teacher.inputs)
    seed, epochs = whole.fold("deal", operation), range(segment.run.cfg.update.epochs)
    order = np.concatenate([np.random.default_rng([seed, epoch]).permutation(count) for epoch in epochs])
    start, end = shares(len(order), segments)[segment.segment : segment.segment + 2]
    return dataclasses.replace(shown.rows(order[start:end].tolist()), dropped=0 if segment.segment else shown.dropped)


def teach(segment: Round, operation: int, shown: Shown, teacher: Trainable | None, student: Trainable) -> Lesson:
    """One operation: the source's answers, and the part of them that f keeps, under both views."""
    rollouts = ask(segment, operation, teacher, student, shown)
    kept = keep_answers(segment, operation, teacher, shown, rollouts)
    budget = segment.run.cfg.limits.completion
    return Lesson(pairs.pair(kept, shown.teacher, shown.student, completion_budget=budget), shown.teacher.context)


def ask(segment: Round, operation: int, teacher: Trainable | None, student: Trainable, shown: Shown) -> list[Rollout]:
    """The source's answers with the teacher's targets, shard by shard into `rollouts/`."""
    run, cfg = segment.run, segment.run.cfg
    assignment = run.assignments[operation]
    request = Request(
        task=assignment.task,
        views=assignment.views,
        shown=shown,
        teacher=run.reader(teacher),
        student=run.reader(student),
        mesh=run.mesh,
        sampling=cfg.sampling,
        targets=cfg.targets,
        steps=cfg.limits.completion,
        seed=segment.fold("sample", operation),
        folder=segment.folder("rollouts", operation),
    )

    rollouts: list[Rollout] | None = None

    def once() -> dict[str, Any]:
        nonlocal rollouts
        total = len(shown.teacher.inputs) * cfg.sampling.per_input
        with (
            progress(f"answers, source {cfg.source.kind}", total) as advance,
            run.profile.steps("sample", -(-slots.SHARE * total // cfg.sampling.batch)) as tick,
        ):
            told = dataclasses.replace(request, progress=lambda done: (advance(done), tick()))
            rollouts = cfg.source.answers(told)
        Store(request.folder).write_text(rollouts, functools.partial(encode.decode, run.format.tokenizer))
        result: dict[str, Any] = {"sampled": len(rollouts), "over_budget": shown.dropped}
        if cfg.sampling.weights == "int8":
            result["int8_kl"] = _int8_kl(run, request.teacher, shown, rollouts)
        if cfg.sampling.draft:
            verdicts = np.concatenate([rollout.verdicts for rollout in rollouts])
            result |= {"accepted": int((verdicts > 0).sum()), "refused": int((verdicts < 0).sum())}
        return result

    run.journal.once(segment.stage("sample", operation), once)
    return cfg.source.answers(request) if rollouts is None else rollouts  # of an earlier run, from the store


def _int8_kl(run: Run, teacher: Reader, shown: Shown, rollouts: Sequence[Rollout]) -> float | None:
    """Mean KL(teacher || its int8 weights, which answered) in nats a token, on some answers, under the first prompt."""
    with jax.set_mesh(run.mesh):
        rounded = answers.rounded(teacher)
    prompts = shown.teacher
    own, whole = (dict(zip(prompts.inputs, side, strict=True)) for side in (prompts.own, prompts.whole))
    some = rollouts[:: -(-len(rollouts) // COMPARED)]
    read = [pairs.hard(own[rollout.input], whole[rollout.input], rollout.ids) for rollout in some]
    return distance.divergence(teacher, rounded, [(prompts.context, read)], run.mesh, run.cfg.update.batch)


def keep_answers(
    round: Round, operation: int, teacher: Trainable | None, shown: Shown, rollouts: Sequence[Rollout]
) -> list[Kept]:
    """f and the filters. Their reasons are written down: a filter that measures time may judge differently later."""
    assignment = round.run.assignments[operation]
    cut = keep.cut(rollouts, assignment.views.teacher.format, assignment.keep)
    evidence = Evidence(assignment.task, functools.partial(bare_answers, round, operation, teacher, shown))

    def judge() -> dict[str, Any]:
        reasons = keep.judge(cut, assignment.keep.filters, evidence)
        return {"kept": reasons.count(None), "dropped": keep.counts(reasons), "reasons": reasons}

    return keep.left(cut, round.run.journal.once(round.stage("keep", operation), judge)["reasons"])


def bare_answers(round: Round, operation: int, teacher: Trainable | None, shown: Shown) -> dict[str, Rollout]:
    """The teacher's answer to each input under the student's view, drawn as its own are; one an input."""
    run = round.run
    with progress("answers without the context", len(shown.student.inputs)) as advance:
        rollouts = answers.sample(
            run.reader(teacher),
            run.mesh,
            shown.student,
            stops=run.format.stops,
            sampling=dataclasses.replace(run.cfg.sampling, per_input=1, draft=0),
            targets=Labels(),
            steps=run.cfg.limits.completion,
            seed=round.fold("bare", operation),
            store=Store(round.folder("rollouts", operation) / "bare"),
            progress=advance,
        )
    return {rollout.input: rollout for rollout in rollouts}


def learn(
    segment: Round,
    student: Trainable,
    teacher: Trainable | None,
    lessons: list[Lesson],
    state: update.TrainState | None,
    planned: int,
) -> update.TrainState:
    """A segment's updates, from its last checkpoint if there is one; optimizer and schedule go on from `state`."""
    run, cfg = segment.run, segment.run.cfg
    replayed = replay(run)
    examples = _together(lessons) + replayed
    reads = reads_teacher(cfg.losses, cfg.targets)
    epochs = cfg.update.epochs if segment.segment is None else 1
    pieces = dataclasses.replace(cfg.update, epochs=epochs)
    made = batches.Batches(examples, pieces, segment.fold("update"), run.mesh, teacher=reads)
    steps = update.Later(made, 0 if state is None else int(state.step))
    tx = optim.make(cfg.optim, planned or len(steps))
    checkpoints, last = segment.checkpoints(), segment.segment == segment.last().segment
    taught_by = answers.identity(run.reader(teacher))
    about = {"seed": segment.seed, "round": segment.number, "teacher": taught_by}

    def train() -> dict[str, Any]:
        nonlocal state
        step = compiled_update(run, tx, cfg.targets, cfg.losses, _full_teacher(run, teacher, lessons))
        with checkpoints.writing() as write:

            def save(tree: Any, number: int) -> None:
                write(number, tree, about | {"step": number, "steps": len(steps)})

            told = {"steps": len(made), "step": len(steps), "pairs": len(examples), "replayed": len(replayed)}
            if cfg.tune.lrs:
                params, grid = _tune(segment, student, step, steps)
                state, told = update.TrainState(params, (), np.int32(len(steps))), told | grid
            else:
                begun = update.start(student, tx, run.mesh) if state is None else state
                begun = resume(run, segment.stage("update"), checkpoints, len(steps), begun, tx, taught_by, last=last)
                every = cfg.update.checkpoint_every
                rates = optim.rates(cfg.optim, planned or len(steps))
                state = _descend(segment, begun, step, steps, rates, save=save, every=every)
            save(state.params if last else state, len(steps))
        return told

    run.journal.once(segment.stage("update"), train)
    assert state is not None
    _forget(segment)
    return state


def _forget(segment: Round) -> None:
    """Deletes what no later stage reads: of the segment before this one, and of the round before the last one."""
    for kind, back in (("checkpoints", 1), ("teachers", 2)):  # the segment's own teacher is that after the one before
        if segment.segment is not None and segment.segment >= back:
            old = dataclasses.replace(segment, segment=segment.segment - back)
            shutil.rmtree(old.folder(kind), ignore_errors=True)
    if segment.number > 1:  # the round before may be this one's teacher
        old = dataclasses.replace(segment, number=segment.number - 2, segment=None)
        for kind in ("checkpoints", "teachers"):
            shutil.rmtree(old.folder(kind), ignore_errors=True)


def _tune(round: Round, student: Trainable, step: Step, steps: update.Steps) -> tuple[Trainable, dict[str, Any]]:
    """The round's updates at every learning rate of `cfg.tune`: the weights that validation examples favour."""
    run, cfg = round.run, round.run.cfg
    an_epoch = len(steps) // cfg.update.epochs

    def train(lr: float, score: search.Point) -> None:
        rate = dataclasses.replace(cfg.optim, lr=lr)
        state = _descend(
            round,
            update.start(student, optim.make(rate, len(steps)), run.mesh),
            step,
            steps,
            optim.rates(rate, len(steps)),
            save=lambda state, number: score(number // an_epoch, state.params),
            every=an_epoch * cfg.tune.every,
            stage=f"update, lr {lr:g}",
        )
        score(cfg.update.epochs, state.params)

    score = validation(run, cfg.scored(round.number))
    return search.search(cfg.tune.lrs, train, score, title=f"student, seed {round.seed}")


def validation(run: Run, operations: Sequence[int]) -> Callable[[Trainable, str], float]:
    """Accuracy of weights on the operations' first `score.validation` validation examples, under the student's view."""
    examples = [list(assignment.task.validation[: run.cfg.score.validation]) for assignment in run.assignments]
    examples = exam.only(examples, operations)

    def accuracy(params: Trainable, title: str) -> float:
        return float(np.mean(run.exam.grade(run.reader(params), "student", examples, title=title)["grades"]))

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
    line = {"seed": segment.seed, "round": segment.number, "stage": stage}
    with (
        progress(f"student, seed {segment.seed}", len(steps), done=int(state.step)) as advance,
        segment.run.profile.steps("update", len(steps) - int(state.step)) as tick,
    ):

        def on_step(number: int, values: dict[str, float]) -> None:
            segment.run.metrics.append(**line, step=number, lr=rates[number - 1], **values)
            advance(1, loss=values["loss"])
            tick()

        return update.train(step, state, steps, on_step=on_step, save=save, every=every)


def successor(round: Round, teacher: Trainable | None, student: Trainable) -> Trainable:
    """Who teaches the next round: the same teacher, the round's student, or with `plan.ema` their weighted mean."""
    plan = round.run.cfg.plan
    if plan.order != "recursive":
        return teacher
    return _averaged(round, teacher, student) if plan.ema and plan.ema_every == "round" else student


def follow(segment: Round, teacher: Trainable | None, student: Trainable) -> Trainable:
    """Who teaches the next segment: the same teacher, or its mean with the student where that follows segments."""
    plan = segment.run.cfg.plan
    return _averaged(segment, teacher, student) if plan.ema and plan.ema_every == "segment" else teacher


def _averaged(round: Round, teacher: Trainable | None, student: Trainable) -> Trainable:
    """`plan.ema` of the teacher and the rest of the student, kept on disk: once it is there, neither is asked for."""
    ema, checkpoints = round.run.cfg.plan.ema, Checkpoints(round.folder("teachers"))
    if round.run.journal.done(round.stage("successor")):
        return checkpoints.load(0, student)
    old = round.run.models.start(round.seed, "teacher") if teacher is None else teacher
    mean = jax.tree.map(lambda old, new: ema * old + (1 - ema) * new, old, student)

    def save() -> dict[str, float]:
        with checkpoints.writing() as write:
            write(0, mean, {"ema": ema})
        return {"ema": ema}

    round.run.journal.once(round.stage("successor"), save)
    return mean


def restore(round: Round) -> Trainable:
    """The trainable state that a finished round left."""
    last = round.segments()[-1]
    return last.checkpoints().load(round.run.journal.results()[last.stage("update")]["step"], round.run.models.base)


def ended(segment: Round, student: Trainable, planned: int) -> update.TrainState:
    """The state that a finished segment left for the next one, optimizer and all."""
    run, step = segment.run, segment.run.journal.results()[segment.stage("update")]["step"]
    return segment.checkpoints().load(step, update.abstract(student, optim.make(run.cfg.optim, planned), run.mesh))


def resume(
    run: Run,
    stage: str,
    checkpoints: Checkpoints,
    steps: int,
    begun: update.TrainState,
    tx: optax.GradientTransformation,
    taught_by: str,
    *,
    last: bool = True,
) -> update.TrainState:
    """The state of a stage's last checkpoint, or the one it begins with. Raises UserError if it had another teacher.

    After all `steps` the checkpoint of a `last` stage holds the trained weights only: what the optimizer knew is of no
    more use.
    """
    latest = checkpoints.latest()
    if latest is None:
        return begun
    if checkpoints.progress(latest)["teacher"] != taught_by:
        raise UserError(f"{run.workdir}: the checkpoint of {stage!r} had another teacher")
    if latest < steps or not last:
        return checkpoints.load(latest, update.abstract(begun.params, tx, run.mesh))
    return dataclasses.replace(begun, params=checkpoints.load(latest, begun.params), step=np.int32(steps))


def compiled_update(
    run: Run,
    tx: optax.GradientTransformation,
    targets: Target,
    losses: tuple[Loss, ...],
    teacher: Reader | None = None,
    of: str = "",
) -> Step:
    """The compiled update of a state by a batch, for every learning rate, which is part of the state."""
    step = update.make_update(run.models.student, tx, targets, losses, run.mesh)
    return tell_compilations(
        lambda state, batch: step(state, run.models.frozen, teacher, batch),
        lambda _, batch: f"the update{f' of {of!r}' if of else ''} for {batch}",
    )


def _full_teacher(run: Run, params: Trainable | None, lessons: list[Lesson]) -> Reader | None:
    """For full targets the teacher itself, which has read every lesson's context."""
    if not reads_teacher(run.cfg.losses, run.cfg.targets):
        return None
    return run.reader(params).after(*(lesson.context for lesson in lessons))


def replay(run: Run) -> list[pairs.Pair]:
    """The solved examples that every round learns beside the teacher's answers (paper, 4.3, transfer)."""
    solved = [example for examples in run.cfg.replay for example in run.labelled(examples)]
    certain, vocab = run.cfg.targets.certain, run.reader(None).decoder.spec.vocab
    return [pairs.hard(prompt, prompt, answer, certain(answer.astype(np.int32), vocab)) for prompt, answer in solved]


def _together(lessons: list[Lesson]) -> list[pairs.Pair]:
    """All pairs of a round; each says which lesson's context its teacher reads."""
    return [dataclasses.replace(pair, context=number) for number, lesson in enumerate(lessons) for pair in lesson.pairs]
