"""The stages of one round, each a function that is run once and found done by the next run.

In: `Round`, and what the stage before gave. Out: rollouts, pairs, trained weights. All randomness is a function of
seed, round, operation and step: progress is a matter of counting.
"""

import dataclasses
import functools
import shutil
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np
import optax
from flax import nnx
from jaxtyping import Int32

from cdjax.distill.opening import Run
from cdjax.errors import UserError
from cdjax.learn import Optim, optim, search, update
from cdjax.learn.checkpoint import Checkpoints
from cdjax.lessons import batches, keep, pairs
from cdjax.lessons.filters import Evidence, Kept
from cdjax.losses import Objective
from cdjax.model import quantize
from cdjax.model.cache import Prefix
from cdjax.model.decoder import Decoder
from cdjax.model.reader import Reader
from cdjax.progress import progress, tell_compilations
from cdjax.sampling import Sampling, answers, slots
from cdjax.sampling.store import Rollout, Store
from cdjax.sampling.targets.labels import Labels
from cdjax.sampling.targets.target import Target
from cdjax.score import distance, exam
from cdjax.views import encode, writer
from cdjax.views.view import Shown

FullTeacher: TypeAlias = tuple[Decoder | None, Prefix | None]
Step: TypeAlias = Callable[..., Any]  # the compiled update with what does not change in a round filled in
COMPARED = 16  # answers that tell how far int8 weights are: some hundreds of tokens give the mean to a few per cent


@dataclasses.dataclass(frozen=True)
class Round:
    """Which seed and round of a run, and the operations that the round distils."""

    run: Run
    seed: int
    number: int
    operations: tuple[int, ...]

    def stage(self, name: str, *operation: int) -> str:
        """The stage's name in the journal."""
        return "/".join([f"seed {self.seed}", f"round {self.number}", *(f"operation {op}" for op in operation), name])

    def folder(self, kind: str, *operation: int) -> Path:
        """Where the round's files of a kind are."""
        parts = (f"seed_{self.seed}", f"round_{self.number}", *(f"operation_{op}" for op in operation))
        return self.run.workdir.joinpath(kind, *parts)

    def checkpoints(self) -> Checkpoints:
        """Those of the round's updates."""
        return Checkpoints(self.folder("checkpoints"))

    def fold(self, purpose: str, *operation: int) -> int:
        """A number for this purpose at this place in the run, to seed what is random there."""
        place = [self.seed, self.number, zlib.crc32(purpose.encode()), *operation]
        return int(np.random.SeedSequence(place).generate_state(1)[0] >> 1)


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What one operation gives a round to learn from; the teacher's prompts all begin with `context`."""

    pairs: list[pairs.Pair]
    context: Int32[np.ndarray, "P"]


def teach(round: Round, operation: int, teacher: nnx.State, student: nnx.State) -> Lesson:
    """One operation: inputs from D, the teacher's answers, the part that f keeps, and both views of it."""
    inputs = collect_inputs(round, operation)
    shown = round.run.assignments[operation].views.prompts(inputs)
    rollouts = sample_teacher(round, operation, teacher, student, shown)
    kept = keep_answers(round, operation, teacher, shown, rollouts)
    budget = round.run.cfg.limits.completion
    return Lesson(pairs.pair(kept, shown.teacher, shown.student, completion_budget=budget), shown.teacher.context)


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
                run.decoder(run.models.original),
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


def sample_teacher(round: Round, operation: int, teacher: nnx.State, student: nnx.State, shown: Shown) -> list[Rollout]:
    """The teacher's answers with their soft targets, shard by shard into `rollouts/`. The student may draft them."""
    run, cfg = round.run, round.run.cfg
    store = Store(round.folder("rollouts", operation))

    def sample(progress: Callable[[int], object] = lambda done: None) -> list[Rollout]:
        return answers.sample(
            run.decoder(teacher),
            run.mesh,
            shown.teacher,
            stops=run.format.stops,
            sampling=cfg.sampling,
            targets=cfg.targets,
            steps=cfg.limits.completion,
            seed=round.fold("sample", operation),
            student=answers.Student(run.decoder(student), shown.student),
            store=store,
            progress=progress,
        )

    def once() -> dict[str, Any]:
        total = len(shown.teacher.inputs) * cfg.sampling.per_input
        with (
            progress("teacher's answers", total) as advance,
            run.profile.steps("sample", -(-slots.SHARE * total // cfg.sampling.batch)) as tick,
        ):
            rollouts = sample(lambda done: (advance(done), tick()))
        store.write_text(rollouts, functools.partial(encode.decode, run.format.tokenizer))
        told: dict[str, Any] = {"sampled": len(rollouts), "over_budget": shown.dropped}
        if cfg.sampling.weights == "int8":
            told["int8_kl"] = _int8_kl(run, run.decoder(teacher), shown, rollouts)
        if cfg.sampling.draft:
            verdicts = np.concatenate([rollout.verdicts for rollout in rollouts])
            told |= {"accepted": int((verdicts > 0).sum()), "refused": int((verdicts < 0).sum())}
        return told

    run.journal.once(round.stage("sample", operation), once)
    return sample()  # from the store


def _int8_kl(run: Run, teacher: Decoder, shown: Shown, rollouts: Sequence[Rollout]) -> float | None:
    """Mean KL(teacher || its int8 weights, which answered) in nats a token, on some answers, under the first prompt."""
    with jax.set_mesh(run.mesh):
        rounded = quantize.int8(teacher)
    prompts = shown.teacher
    own, whole = (dict(zip(prompts.inputs, side, strict=True)) for side in (prompts.own, prompts.whole))
    some = rollouts[:: -(-len(rollouts) // COMPARED)]
    read = [pairs.hard(own[rollout.input], whole[rollout.input], rollout.ids) for rollout in some]
    return distance.divergence(teacher, rounded, [(prompts.context, read)], run.mesh, run.cfg.update.batch)


def keep_answers(
    round: Round, operation: int, teacher: nnx.State, shown: Shown, rollouts: Sequence[Rollout]
) -> list[Kept]:
    """f and the filters. Their reasons are written down: a filter that measures time may judge differently later."""
    assignment = round.run.assignments[operation]
    cut = keep.cut(rollouts, assignment.views.teacher.format, assignment.keep)
    evidence = Evidence(assignment.task, functools.partial(bare_answers, round, operation, teacher, shown))

    def judge() -> dict[str, Any]:
        reasons = keep.judge(cut, assignment.keep.filters, evidence)
        return {"kept": reasons.count(None), "dropped": keep.counts(reasons), "reasons": reasons}

    return keep.left(cut, round.run.journal.once(round.stage("keep", operation), judge)["reasons"])


def bare_answers(round: Round, operation: int, teacher: nnx.State, shown: Shown) -> dict[str, Rollout]:
    """The teacher's answer to each input under the student's view, drawn as its own are; one an input."""
    run = round.run
    with progress("answers without the context", len(shown.student.inputs)) as advance:
        rollouts = answers.sample(
            run.decoder(teacher),
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


def learn(round: Round, student: nnx.State, teacher: nnx.State, lessons: list[Lesson]) -> nnx.State:
    """The round's updates, from its last checkpoint if there is one; returns the new trainable state."""
    run, cfg = round.run, round.run.cfg
    if run.journal.done(round.stage("update")):
        return restore(round)
    replayed = replay(run)
    examples = _together(lessons) + replayed
    steps = batches.Batches(
        examples, cfg.update, round.fold("update"), run.mesh, teacher=cfg.objective.reads_teacher(cfg.targets)
    )
    tx = optim.make(cfg.optim, len(steps))
    checkpoints = round.checkpoints()
    taught_by = answers.identity(run.decoder(teacher))
    about = {"seed": round.seed, "round": round.number, "teacher": taught_by}
    params = student

    def train() -> dict[str, Any]:
        nonlocal params
        step = compiled_update(run, tx, cfg.targets, cfg.objective, _full_teacher(run, teacher, lessons))
        with checkpoints.writing() as write:

            def save(tree: Any, number: int) -> None:
                write(number, tree, about | {"step": number, "steps": len(steps)})

            told: dict[str, Any] = {"steps": len(steps), "pairs": len(examples), "replayed": len(replayed)}
            if cfg.tune.lrs:
                params, grid = _tune(round, student, step, steps)
                told |= grid
            else:
                state = resume(run, round.stage("update"), checkpoints, len(steps), student, tx, taught_by)
                every = cfg.update.checkpoint_every
                params = _descend(round, state, step, steps, cfg.optim, save=save, every=every).params
            save(params, len(steps))
        return told

    run.journal.once(round.stage("update"), train)
    if round.number > 1:  # the round before may be this one's teacher
        old = dataclasses.replace(round, number=round.number - 2)
        for kind in ("checkpoints", "teachers"):
            shutil.rmtree(old.folder(kind), ignore_errors=True)
    return params


def _tune(round: Round, student: nnx.State, step: Step, steps: batches.Batches) -> tuple[nnx.State, dict[str, Any]]:
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
            rate,
            save=lambda state, number: score(number // an_epoch, state.params),
            every=an_epoch * cfg.tune.every,
            stage=f"update, lr {lr:g}",
        )
        score(cfg.update.epochs, state.params)

    score = validation(run, cfg.scored(round.number))
    return search.search(cfg.tune.lrs, train, score, title=f"student, seed {round.seed}")


def validation(run: Run, operations: Sequence[int]) -> Callable[[nnx.State, str], float]:
    """Accuracy of weights on the operations' first `score.validation` validation examples, under the student's view."""
    examples = [list(assignment.task.validation[: run.cfg.score.validation]) for assignment in run.assignments]
    examples = exam.only(examples, operations)

    def accuracy(params: nnx.State, title: str) -> float:
        return float(np.mean(run.exam.grade(run.decoder(params), "student", examples, title=title)["grades"]))

    return accuracy


def _descend(
    round: Round,
    state: update.TrainState,
    step: Step,
    steps: batches.Batches,
    cfg: Optim,
    *,
    save: Callable[[update.TrainState, int], None],
    every: int,
    stage: str = "update",
) -> update.TrainState:
    """The steps that are left; `save` after every `every` steps, but not after the last."""
    rates, line = optim.rates(cfg, len(steps)), {"seed": round.seed, "round": round.number, "stage": stage}
    with (
        progress(f"student, seed {round.seed}", len(steps), done=int(state.step)) as advance,
        round.run.profile.steps("update", len(steps) - int(state.step)) as tick,
    ):

        def on_step(number: int, values: dict[str, float]) -> None:
            round.run.metrics.append(**line, step=number, lr=rates[number - 1], **values)
            advance(1, loss=values["loss"])
            tick()

        return update.train(step, state, steps, on_step=on_step, save=save, every=every)


def successor(round: Round, teacher: nnx.State, student: nnx.State) -> nnx.State:
    """Who teaches the next round: the same teacher, the round's student, or with `plan.ema` their weighted mean.

    A mean is kept on disk: of a round that is over, `teacher` is not asked for.
    """
    plan = round.run.cfg.plan
    if plan.order != "recursive" or not plan.ema:
        return student if plan.order == "recursive" else teacher
    checkpoints = Checkpoints(round.folder("teachers"))
    if round.run.journal.done(round.stage("successor")):
        return checkpoints.load(round.number, student)
    mean = jax.tree.map(lambda old, new: plan.ema * old + (1 - plan.ema) * new, teacher, student)

    def save() -> dict[str, float]:
        with checkpoints.writing() as write:
            write(round.number, mean, {"ema": plan.ema})
        return {"ema": plan.ema}

    round.run.journal.once(round.stage("successor"), save)
    return mean


def restore(round: Round) -> nnx.State:
    """The trainable state that a finished round left."""
    steps = round.run.journal.results()[round.stage("update")]["steps"]
    return round.checkpoints().load(steps, round.run.models.original)


def resume(
    run: Run,
    stage: str,
    checkpoints: Checkpoints,
    steps: int,
    start: nnx.State,
    tx: optax.GradientTransformation,
    taught_by: str,
) -> update.TrainState:
    """The state of a stage's last checkpoint, or a fresh one. Raises UserError if that had another teacher.

    After all `steps` a checkpoint holds the trained weights only: what the optimizer knew is of no more use.
    """
    latest = checkpoints.latest()
    if latest is None:
        return update.start(start, tx, run.mesh)
    if checkpoints.progress(latest)["teacher"] != taught_by:
        raise UserError(f"{run.workdir}: the checkpoint of {stage!r} had another teacher")
    if latest < steps:
        return checkpoints.load(latest, update.abstract(start, tx, run.mesh))
    ended = update.start(checkpoints.load(latest, start), tx, run.mesh)
    return dataclasses.replace(ended, step=np.int32(steps))


def compiled_update(
    run: Run,
    tx: optax.GradientTransformation,
    targets: Target,
    objective: Objective,
    teacher: FullTeacher = (None, None),
    of: str = "",
) -> Step:
    """The compiled update of a state by a batch, for every learning rate, which is part of the state."""
    step = update.make_update(run.models.graph, tx, targets, objective, run.mesh)
    return tell_compilations(
        lambda state, batch: step(state, run.models.frozen, *teacher, batch),
        lambda _, batch: f"the update{f' of {of!r}' if of else ''} for {batch}",
    )


def _full_teacher(run: Run, params: nnx.State, lessons: list[Lesson]) -> FullTeacher:
    """For full targets the teacher itself, and every lesson's context, read once."""
    if not run.cfg.objective.reads_teacher(run.cfg.targets):
        return None, None
    teacher = run.decoder(params)
    return teacher, Reader(teacher).after(*(lesson.context for lesson in lessons)).prefix


def replay(run: Run) -> list[pairs.Pair]:
    """The solved examples that every round learns beside the teacher's answers (paper, 4.3, transfer)."""
    solved = [example for examples in run.cfg.replay for example in run.labelled(examples)]
    certain, vocab = run.cfg.targets.certain, run.decoder(run.models.base).spec.vocab
    return [pairs.hard(prompt, prompt, answer, certain(answer.astype(np.int32), vocab)) for prompt, answer in solved]


def _together(lessons: list[Lesson]) -> list[pairs.Pair]:
    """All pairs of a round; each says which lesson's context its teacher reads."""
    return [dataclasses.replace(pair, context=number) for number, lesson in enumerate(lessons) for pair in lesson.pairs]
