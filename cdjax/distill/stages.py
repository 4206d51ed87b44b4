"""The stages of one round, each a function that is run once and found done by the next run.

In: `Setting`, `Round`, and what the stage before gave. Out: rollouts, pairs, trained weights. All randomness is a
function of seed, round, operation and step: progress is a matter of counting.
"""

import dataclasses
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

from cdjax import config
from cdjax.distill import tune
from cdjax.errors import UserError
from cdjax.learn import optim, update
from cdjax.learn.checkpoint import Checkpoints
from cdjax.lessons import batches, keep, pairs
from cdjax.model import quantize
from cdjax.model.cache import Prefix
from cdjax.model.decoder import Decoder, read_prefix
from cdjax.progress import progress, tell_compilations
from cdjax.sampling import answers, slots
from cdjax.sampling.generate import Record
from cdjax.sampling.store import Rollout, Store
from cdjax.score import evaluate
from cdjax.tasks import inputs
from cdjax.views import encode, writer
from cdjax.workdir.setting import Setting, Views

FullTeacher: TypeAlias = tuple[Decoder | None, Prefix | None]
Step: TypeAlias = Callable[..., Any]  # the compiled update with what does not change in a round filled in
COMPARED = 16  # answers that tell how far int8 weights are: some hundreds of tokens give the mean to a few per cent


@dataclasses.dataclass(frozen=True)
class Round:
    """Where a run is: which seed, which round, and which operations it distils."""

    seed: int
    number: int
    operations: tuple[int, ...]

    def stage(self, name: str, *operation: int) -> str:
        """The stage's name in the journal."""
        return "/".join([f"seed {self.seed}", f"round {self.number}", *(f"operation {op}" for op in operation), name])

    def directory(self, root: Path, *operation: int) -> Path:
        return root.joinpath(f"seed_{self.seed}", f"round_{self.number}", *(f"operation_{op}" for op in operation))

    def fold(self, purpose: str, *operation: int) -> int:
        """A number for this purpose at this place in the run, to seed what is random there."""
        place = [self.seed, self.number, zlib.crc32(purpose.encode()), *operation]
        return int(np.random.SeedSequence(place).generate_state(1)[0] >> 1)


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What one operation gives a round to learn from; the teacher's prompts all begin with `context`."""

    pairs: list[pairs.Pair]
    context: Int32[np.ndarray, "P"]


def teach(here: Setting, at: Round, op: int, params: nnx.State, student: nnx.State) -> Lesson:
    """One operation: inputs from D, the teacher's answers, the part that f keeps, and both views of it."""
    texts = collect_inputs(here, at, op)
    views = here.views(op, texts)
    rollouts = sample_teacher(here, at, op, params, student, views)
    kept = keep_answers(here, at, op, rollouts)
    budget = here.cfg.limits.completion
    return Lesson(pairs.pair(kept, views.teacher, views.student, completion_budget=budget), views.teacher.context)


def collect_inputs(here: Setting, at: Round, op: int) -> Sequence[str]:
    """D: the pool, other tasks' pools, the file, the rule's draws and what the model wrote, joined."""
    written = write_inputs(here, at, op)
    collected = inputs.collect(
        here.tasks[op],
        here.cfg.operations()[op].inputs,
        seed=at.fold("inputs", op),
        written=written,
        others=here.others[op],
    )
    here.journal.once(at.stage("inputs", op), lambda: collected.counts)
    return collected.inputs


def write_inputs(here: Setting, at: Round, op: int) -> list[str]:
    """Inputs that the original model writes when shown a few others (paper, section 2.1: D sampled from a model)."""
    cfg = here.cfg.operations()[op].inputs
    if not cfg.written:
        return []

    def write() -> list[str]:
        seed = at.fold("write", op)
        prompts = encode.input_writer(here.tokenizer, here.cfg.template, here.tasks[op], cfg, seed)
        with progress("inputs by the model", cfg.written) as advance:
            rollouts = answers.sample(
                here.model(here.original),
                here.mesh,
                prompts,
                stops=here.stops,
                sampling=config.Sampling(batch=here.cfg.sampling.batch),
                record=Record(),
                steps=cfg.written_tokens,
                seed=seed,
                progress=advance,
            )
        stop = here.cfg.template.stop
        texts = [keep.answer_text(here.tokenizer, one.ids, here.stops, stop) for one in rollouts]
        ended = [one.stopped for one in rollouts]
        return [writer.read(here.cfg.template, *one) for one in zip(texts, ended, strict=True)]

    return here.journal.once(at.stage("write", op), write)


def sample_teacher(
    here: Setting, at: Round, op: int, params: nnx.State, student: nnx.State, views: Views
) -> list[Rollout]:
    """The teacher's answers with their soft targets, shard by shard into `rollouts/`. The student may draft them."""
    cfg = here.cfg
    store = Store(at.directory(here.workdir / "rollouts", op))

    def sample(progress: Callable[[int], object] = lambda done: None) -> list[Rollout]:
        return answers.sample(
            here.model(params),
            here.mesh,
            views.teacher,
            stops=here.stops,
            sampling=cfg.sampling,
            record=record(cfg.objective),
            steps=cfg.limits.completion,
            seed=at.fold("sample", op),
            student=answers.Student(here.model(student), views.student),
            store=store,
            progress=progress,
        )

    def once() -> dict[str, Any]:
        total = len(views.teacher.inputs) * cfg.sampling.per_input
        with (
            progress("teacher's answers", total) as advance,
            here.profile.steps("sample", -(-slots.SHARE * total // cfg.sampling.batch)) as tick,
        ):
            rollouts = sample(lambda done: (advance(done), tick()))
        store.write_text(rollouts, lambda ids: encode.decode(here.tokenizer, ids))
        told: dict[str, Any] = {"sampled": len(rollouts), "over_budget": views.dropped}
        if cfg.sampling.weights == "int8":
            told["int8_kl"] = _int8_kl(here, params, views, rollouts)
        if cfg.sampling.draft:
            verdicts = np.concatenate([one.verdicts for one in rollouts])
            told |= {"accepted": int((verdicts > 0).sum()), "refused": int((verdicts < 0).sum())}
        return told

    here.journal.once(at.stage("sample", op), once)
    return sample()  # from the store


def _int8_kl(here: Setting, params: nnx.State, views: Views, rollouts: Sequence[Rollout]) -> float | None:
    """Mean KL(teacher || its int8 weights, which answered) in nats a token, on some answers, under the first prompt."""
    model, prompts = here.model(params), views.teacher
    with jax.set_mesh(here.mesh):
        rounded = quantize.int8(model)
    own, whole = (dict(zip(prompts.inputs, side, strict=True)) for side in (prompts.own, prompts.whole))
    some = rollouts[:: -(-len(rollouts) // COMPARED)]
    read = [pairs.hard(own[one.input], whole[one.input], one.ids) for one in some]
    return evaluate.divergence(here, model, rounded, iter([(prompts.context, read)]))


def keep_answers(here: Setting, at: Round, op: int, rollouts: Sequence[Rollout]) -> list[keep.Kept]:
    """f and the filters."""
    operation, task = here.cfg.operations()[op], here.tasks[op]

    def correct(text: str, answer: str) -> bool:
        known = task.solve(text) if task.solve else None
        return known is not None and task.grade(known, answer) == 1.0

    grade = correct if task.solve else None
    kept, dropped = keep.keep(rollouts, here.tokenizer, operation.keep, here.stops, grade, stop=here.cfg.template.stop)
    here.journal.once(at.stage("keep", op), lambda: {"kept": len(kept), "dropped": dropped})
    return kept


def learn(here: Setting, at: Round, student: nnx.State, teacher_params: nnx.State, lessons: list[Lesson]) -> nnx.State:
    """The round's updates, from its last checkpoint if there is one; returns the new trainable state."""
    if here.journal.done(at.stage("update")):
        return restore(here, at)
    replayed = replay(here)
    examples = _together(lessons) + replayed
    full = here.cfg.objective.reads_teacher
    steps = batches.Batches(examples, here.cfg.update, at.fold("update"), here.mesh, teacher=full)
    tx = optim.make(here.cfg.optim, len(steps))
    checkpoints = _checkpoints(here, at)
    taught_by = answers.identity(here.model(teacher_params))
    about = {"seed": at.seed, "round": at.number, "teacher": taught_by}
    params = student

    def train() -> dict[str, Any]:
        nonlocal params
        step = _step(here, tx, _full_teacher(here, teacher_params, lessons))
        with checkpoints.writing() as write:

            def save(tree: Any, number: int) -> None:
                write(number, tree, about | {"step": number, "steps": len(steps)})

            told: dict[str, Any] = {"steps": len(steps), "pairs": len(examples), "replayed": len(replayed)}
            if here.cfg.tune.lrs:
                params, grid = _tune(here, at, student, step, steps)
                told |= grid
            else:
                state = resume(here, at.stage("update"), checkpoints, len(steps), student, tx, taught_by)
                every = here.cfg.update.checkpoint_every
                params = _descend(here, at, state, step, steps, here.cfg.optim, save=save, every=every).params
            save(params, len(steps))
        return told

    here.journal.once(at.stage("update"), train)
    if at.number > 1:  # the round before may be this one's teacher
        old = dataclasses.replace(at, number=at.number - 2)
        for folder in ("checkpoints", "teachers"):
            shutil.rmtree(old.directory(here.workdir / folder), ignore_errors=True)
    return params


def _tune(
    here: Setting, at: Round, student: nnx.State, step: Step, steps: batches.Batches
) -> tuple[nnx.State, dict[str, Any]]:
    """The round's updates at every learning rate of `cfg.tune`: the weights that validation examples favour."""
    cfg, an_epoch = here.cfg, len(steps) // here.cfg.update.epochs

    def train(lr: float, score: tune.Point) -> None:
        how = dataclasses.replace(cfg.optim, lr=lr)
        state = _descend(
            here,
            at,
            update.start(student, optim.make(how, len(steps)), here.mesh),
            step,
            steps,
            how,
            save=lambda state, number: score(number // an_epoch, state.params),
            every=an_epoch * cfg.tune.every,
            stage=f"update, lr {lr:g}",
        )
        score(cfg.update.epochs, state.params)

    return tune.search(here, cfg.tune.lrs, train, cfg.scored(at.number), title=f"student, seed {at.seed}")


def _descend(
    here: Setting,
    at: Round,
    state: update.TrainState,
    step: Step,
    steps: batches.Batches,
    cfg: config.Optim,
    *,
    save: Callable[[update.TrainState, int], None],
    every: int,
    stage: str = "update",
) -> update.TrainState:
    """The steps that are left; `save` after `every` so many, but not the last."""
    rates = optim.rates(cfg, len(steps))
    with (
        progress(f"student, seed {at.seed}", len(steps), done=int(state.step)) as advance,
        here.profile.steps("update", len(steps) - int(state.step)) as tick,
    ):

        def on_step(number: int, values: dict[str, float]) -> None:
            line = {"seed": at.seed, "round": at.number, "stage": stage, "step": number}
            here.metrics.append(**line, lr=rates[number - 1], **values)
            advance(1, loss=values["loss"])
            tick()

        return update.train(step, state, steps, on_step=on_step, save=save, every=every)


def successor(here: Setting, at: Round, teacher: nnx.State, student: nnx.State) -> nnx.State:
    """Who teaches the next round: the same teacher, the round's student, or with `plan.ema` their weighted mean.

    A mean is kept on disk: of a round that is over, `teacher` is not asked for.
    """
    plan = here.cfg.plan
    if plan.order != "recursive" or not plan.ema:
        return student if plan.order == "recursive" else teacher
    checkpoints = Checkpoints(at.directory(here.workdir / "teachers"))
    if here.journal.done(at.stage("successor")):
        return checkpoints.load(at.number, student)
    mean = jax.tree.map(lambda old, new: plan.ema * old + (1 - plan.ema) * new, teacher, student)

    def save() -> dict[str, float]:
        with checkpoints.writing() as write:
            write(at.number, mean, {"ema": plan.ema})
        return {"ema": plan.ema}

    here.journal.once(at.stage("successor"), save)
    return mean


def restore(here: Setting, at: Round) -> nnx.State:
    """The trainable state that a finished round left."""
    return _checkpoints(here, at).load(here.journal.results()[at.stage("update")]["steps"], here.original)


def resume(
    here: Setting,
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
        return update.start(start, tx, here.mesh)
    if checkpoints.progress(latest)["teacher"] != taught_by:
        raise UserError(f"{here.workdir}: the checkpoint of {stage!r} had another teacher")
    if latest < steps:
        return checkpoints.load(latest, update.abstract(start, tx, here.mesh))
    ended = update.start(checkpoints.load(latest, start), tx, here.mesh)
    return dataclasses.replace(ended, step=np.int32(steps))


def record(objective: config.Objective) -> Record:
    """What the decode step must write down for this objective."""
    if objective.kind == "cross_entropy" or objective.targets == "full":
        return Record()
    if objective.targets == "sampled":
        return Record(draws=objective.draws, temperature=objective.temperature)
    return Record(top_k=objective.top_k, temperature=objective.temperature)


def _checkpoints(here: Setting, at: Round) -> Checkpoints:
    return Checkpoints(at.directory(here.workdir / "checkpoints"))


def _step(here: Setting, tx: optax.GradientTransformation, reads: FullTeacher) -> Step:
    """For every learning rate: it is part of the state."""
    model, prefix = reads
    step = update.make_update(here.graph, tx, here.cfg.objective, here.mesh)
    return tell_compilations(
        lambda state, batch: step(state, here.frozen, model, prefix, batch),
        lambda _, batch: f"the update for {batch}",
    )


def _full_teacher(here: Setting, params: nnx.State, lessons: list[Lesson]) -> FullTeacher:
    """For full targets the teacher itself, and every lesson's context, read once."""
    if not here.cfg.objective.reads_teacher:
        return None, None
    model, contexts = here.model(params), [lesson.context for lesson in lessons]
    return model, read_prefix(model, *contexts) if any(map(len, contexts)) else None


def replay(here: Setting) -> list[pairs.Pair]:
    """The solved examples that every round learns beside the teacher's answers (paper, 4.3, transfer)."""
    kept = record(here.cfg.objective)
    solved = [one for labelled in here.cfg.replay for one in here.labelled(labelled)]
    vocab = here.model(here.base).spec.vocab
    return [pairs.certain(*one, top_k=kept.top_k, draws=kept.draws, vocab=vocab) for one in solved]


def _together(lessons: list[Lesson]) -> list[pairs.Pair]:
    """All pairs of a round; each says which lesson's context its teacher reads."""
    return [dataclasses.replace(pair, context=number) for number, lesson in enumerate(lessons) for pair in lesson.pairs]
