"""The stages of one round, each a function that is run once and found done by the next run.

In: `Round`, and what the stage before gave. Out: rollouts, pairs, trained weights. All randomness is a function of
seed, round, operation and step: progress is a matter of counting.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cdjax.distill import scores, succession, updates
from cdjax.distill.plan import Round
from cdjax.distill.updates import Lesson
from cdjax.lessons import keep, pairs
from cdjax.lessons.crossing import crossed
from cdjax.lessons.filters import Evidence, Kept
from cdjax.lessons.request import Request
from cdjax.model.reader import Reader
from cdjax.progress import progress
from cdjax.sampling import Sampling, answers, slots
from cdjax.sampling.store import Rollout, Store
from cdjax.sampling.targets.labels import Labels
from cdjax.score import distance
from cdjax.students import Trainable
from cdjax.views import encode, writer
from cdjax.views.view import Shown

COMPARED = 16  # answers that tell how far int8 weights are: some hundreds of tokens give the mean to a few per cent


def distil(round: Round, teacher: Trainable | None, student: Trainable) -> Trainable:
    """One round, in segments: answers, the part of them that f keeps, and updates; returns the new student."""
    journal = round.run.journal
    if journal.done(round.last().stage("update")):
        return updates.restore(round)
    asked = round.operations if round.training.asks else ()
    shown = {operation: show(round, operation) for operation in asked}
    planned = plan_segments(round, shown)
    segments = round.segments()
    ended = [segment for segment in segments if journal.done(segment.stage("update"))]
    state = updates.ended(ended[-1], student, planned) if ended else None
    if state is not None:
        student = state.params
        score_segment(ended[-1], student)  # which a kill may have prevented
        for segment in ended[-2:]:  # the teacher of the last one is on disk, its successor may not be yet
            teacher = succession.follow(segment, teacher, student)
    for segment in segments[len(ended) :]:
        rows = {operation: dealt(segment, operation, shown[operation], len(segments)) for operation in shown}
        lessons = [teach(segment, operation, rows[operation], teacher, student) for operation in asked]
        taught = [lesson for lesson in lessons if lesson.pairs]
        state = updates.learn(segment, student, teacher, taught, state, planned)
        student = state.params
        if segment is not segments[-1]:
            score_segment(segment, student)
            teacher = succession.follow(segment, teacher, student)
    return student


def score_segment(segment: Round, student: Trainable) -> None:
    """Scores a student inside its round, if `score.every` says so; after the last segment the round's score comes."""
    run = segment.run
    if segment.student and run.cfg.score.every == "segment":
        score = functools.partial(scores.score_student, run, student, run.cfg.scored(segment.number))
        run.journal.once(segment.stage("score"), score)


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
    format = run.teachers[0].format

    def write() -> list[str]:
        seed = round.fold("write", operation)
        prompts = encode.input_writer(format.tokenizer, format.template, assignment.task, assignment.inputs, seed)
        with progress("inputs by the model", assignment.inputs.written) as advance:
            rollouts = answers.sample(
                run.teaching(None)[0],
                run.mesh,
                prompts,
                stops=format.stops,
                sampling=Sampling(batch=round.training.sampling.batch),
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
    training, counts = round.training, [len(prompts.student.inputs) for prompts in shown.values()]
    update = training.update
    answers_each = sum(source.most(training.sampling.per_input) for source in training.asks)
    count = update.epochs * -(-sum(counts) * answers_each // update.batch)
    if not update.every or count <= update.every:
        return 0
    segments, solved = -(-count // update.every), len(updates.solved(round))
    edges = np.sum([shares(update.epochs * count, segments) for count in counts], 0)
    planned = int(np.ceil((np.diff(edges) * answers_each + solved) / update.batch).sum())
    round.run.journal.once(round.stage("segments"), lambda: {"segments": segments, "planned": planned})
    return planned


def shares(count: int, segments: int) -> list[int]:
    """Where each of so many equal shares of `count` inputs begins, and the end of the last one."""
    return [count * number // segments for number in range(segments + 1)]


def dealt(segment: Round, operation: int, shown: Shown, segments: int) -> Shown:
    """The inputs of a segment: its share of all epochs, each of which goes through the inputs in another order."""
    if segment.segment is None:
        return shown
    whole, count = dataclasses.replace(segment, segment=None), len(shown.student.inputs)
    seed, epochs = whole.fold("deal", operation), range(segment.training.update.epochs)
    order = np.concatenate([np.random.default_rng([seed, epoch]).permutation(count) for epoch in epochs])
    start, end = shares(len(order), segments)[segment.segment : segment.segment + 2]
    return dataclasses.replace(shown.rows(order[start:end].tolist()), dropped=0 if segment.segment else shown.dropped)


def teach(segment: Round, operation: int, shown: Shown, teacher: Trainable | None, student: Trainable) -> Lesson:
    """One operation: the sources' answers, and the part of them that f keeps, under both views."""
    kept: list[Kept] = []
    for number in range(len(segment.training.asks)):
        place = (operation, number) if number else (operation,)
        rollouts = ask(segment, place, teacher, student, shown)
        kept += keep_answers(segment, place, teacher, shown, rollouts)
    budget = segment.run.cfg.limits.completion
    return Lesson(pairs.pair(kept, shown.teacher, shown.student, completion_budget=budget), shown.teacher.context)


def ask(
    segment: Round, place: tuple[int, ...], teacher: Trainable | None, student: Trainable, shown: Shown
) -> list[Rollout]:
    """A source's answers with the teachers' targets, shard by shard into `rollouts/`.

    `place` is the operation's number and, after the first source, the source's.
    """
    run, training = segment.run, segment.training
    assignment, source = run.assignments[place[0]], training.asks[sum(place[1:])]
    request = Request(
        operation=place[0],
        task=assignment.task,
        views=assignment.views,
        shown=shown,
        teachers=run.teaching(teacher),
        student=segment.learner.side.reader(student),
        mesh=run.mesh,
        sampling=training.sampling,
        targets=training.targets,
        steps=run.cfg.limits.completion,
        seed=segment.fold("sample", *place),
        folder=segment.folder("rollouts", *place),
        whole=segment.segment is None,
    )

    rollouts: list[Rollout] | None = None

    def once() -> dict[str, Any]:
        nonlocal rollouts
        sampling, total = training.sampling, len(shown.student.inputs) * training.sampling.per_input
        with (
            progress(f"answers, source {source.kind}", total) as advance,
            run.profile.steps("sample", -(-slots.SHARE * total // sampling.batch)) as tick,
        ):
            told = dataclasses.replace(request, progress=lambda done: (advance(done), tick()))
            rollouts = source.answers(told)
        Store(request.folder).write_text(rollouts, functools.partial(encode.decode, run.format.tokenizer))
        result: dict[str, Any] = {"sampled": len(rollouts), "over_budget": 0 if place[1:] else shown.dropped}
        if sampling.weights == "int8" and rollouts:
            result["int8_kl"] = _int8_kl(segment, request.teachers[0], shown, rollouts)
        if sampling.draft and rollouts:
            verdicts = np.concatenate([rollout.verdicts for rollout in rollouts])
            result |= {"accepted": int((verdicts > 0).sum()), "refused": int((verdicts < 0).sum())}
        return result

    run.journal.once(segment.stage("sample", *place), once)
    return source.answers(request) if rollouts is None else rollouts  # of an earlier run, from the store


def _int8_kl(round: Round, teacher: Reader, shown: Shown, rollouts: Sequence[Rollout]) -> float | None:
    """Mean KL(teacher || its int8 weights, which answered) in nats a token, on some answers, under the first prompt."""
    with jax.set_mesh(round.run.mesh):
        rounded = answers.rounded(teacher)
    prompts = shown.teacher
    suffixes, whole = (dict(zip(prompts.inputs, rows, strict=True)) for rows in (prompts.suffixes, prompts.whole))
    compared = rollouts[:: -(-len(rollouts) // COMPARED)]
    read = [pairs.hard(suffixes[rollout.input], whole[rollout.input], rollout.ids) for rollout in compared]
    return distance.divergence(teacher, rounded, [(prompts.context, read)], round.run.mesh, round.training.update.batch)


def keep_answers(
    round: Round, place: tuple[int, ...], teacher: Trainable | None, shown: Shown, rollouts: Sequence[Rollout]
) -> list[Kept]:
    """f and the filters. Their reasons are written down: a filter that measures time may judge differently later."""
    assignment = round.run.assignments[place[0]]
    cut = keep.apply_f(rollouts, assignment.views.student.format, assignment.keep)
    evidence = Evidence(assignment.task, functools.partial(bare_answers, round, place, teacher, shown))

    def judge() -> dict[str, Any]:
        reasons = keep.judge(cut, assignment.keep.filters, evidence, some=round.segment is None)
        return {"kept": reasons.count(None), "dropped": keep.counts(reasons), "reasons": reasons}

    return keep.surviving(cut, round.run.journal.once(round.stage("keep", *place), judge)["reasons"])


def bare_answers(round: Round, place: tuple[int, ...], teacher: Trainable | None, shown: Shown) -> dict[str, Rollout]:
    """The teacher's answer to each input under the student's view, drawn as its own are; one an input."""
    run, views = round.run, round.run.assignments[place[0]].views
    prompts = shown.student if views.bare == views.student else views.bare.prompts(shown.student.inputs)[0]
    with progress("answers without the context", len(prompts.inputs)) as advance:
        rollouts = answers.sample(
            run.teaching(teacher)[0],
            run.mesh,
            prompts,
            stops=views.bare.format.stops,
            sampling=dataclasses.replace(round.training.sampling, per_input=1, draft=0),
            targets=Labels(),
            steps=run.cfg.limits.completion,
            seed=round.fold("bare", *place),
            store=Store(round.folder("rollouts", *place) / "bare"),
            progress=advance,
        )
    if not views.one_vocabulary:
        rollouts = crossed(rollouts, views.bare, views.student, steps=run.cfg.limits.completion)
    return {rollout.input: rollout for rollout in rollouts}
