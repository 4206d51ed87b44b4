"""An experiment and a directory -> `Run`: everything that the stages of a run have in common, put together once.

What can be wrong with the user's files is found here, before anything is compiled.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np

from cdjax import compiled, config, parallel
from cdjax.config import Experiment, Operation, check, load_config
from cdjax.distill import sides
from cdjax.distill.sides import Teacher
from cdjax.errors import UserError
from cdjax.lessons import batches
from cdjax.lessons.assignment import Assignment
from cdjax.lessons.labelled import Labelled, Solved, labelled
from cdjax.lessons.sources.source import Known
from cdjax.model import decoder, precision
from cdjax.model.files import prefix, source
from cdjax.model.reader import Reader
from cdjax.score.exam import Exam
from cdjax.students import Origin, Trainable
from cdjax.students.side import Side, side
from cdjax.tasks import Task, inputs, load
from cdjax.views.view import Format, View, Views
from cdjax.workdir import directory
from cdjax.workdir.journal import Journal
from cdjax.workdir.metrics import Metrics
from cdjax.workdir.profile import Profile

NO_LIMIT = 2**31  # tokens: what does not fit a prompt has been told
Loaded: TypeAlias = tuple[decoder.Decoder, Any, dict[str, Any]]  # what `source.load` returns
Load: TypeAlias = Callable[[str, tuple[int, ...]], Loaded]  # of a source's model with some of its layers


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that goes on in `workdir`. Rooms never see it: they get the part of it that they read."""

    cfg: Experiment
    workdir: Path
    mesh: jax.sharding.Mesh
    student: Side
    format: Format  # of the student
    origin: Origin  # of the student
    teachers: tuple[Teacher, ...]
    assignments: tuple[Assignment, ...]  # one an operation
    journal: Journal
    metrics: Metrics
    profile: Profile

    def teaching(self, params: Trainable | None) -> tuple[Reader, ...]:
        """Who teaches: the student with these weights, or for None the first teachers."""
        return tuple(teacher.reader for teacher in self.teachers) if params is None else (self.student.reader(params),)

    def begin(self, seed: int, start: str) -> Trainable:
        """What a seed's training starts from: the first teacher's weights, if it was trained, or fresh ones."""
        trained = self.teachers[0].params
        return trained if start == "teacher" and trained is not None else self.student.fresh(seed)

    @property
    def before(self) -> Reader:
        """What a student is compared with: the model, or the first teacher, without the context."""
        return self.student.reader(self.teachers[0].params if self.cfg.training.start == "teacher" else None)

    @property
    def exam(self) -> Exam:
        """What models are asked when they are scored."""
        score, steps, batch = self.cfg.score, self.cfg.limits.completion, self.cfg.training.sampling.batch
        return Exam(self.assignments, self.mesh, score.examples, steps, batch)

    def known(self, teacher: Teacher | None = None) -> Known:
        """Where sources find solved examples for the student, or for a teacher that is trained."""
        views = [assignment.views.student for assignment in self.assignments]
        if teacher:
            views = [dataclasses.replace(each.views.bare, format=teacher.format) for each in self.assignments]
        format, budget = teacher.format if teacher else self.format, self.cfg.limits.teacher_prompt

        def find(examples: Labelled) -> list[Solved]:
            return labelled(examples, load(examples.task, data_dir=self.cfg.data_dir), format, budget)

        return Known(self.assignments, views, find)


def open(cfg: Experiment, workdir: Path, *, profile: bool = False) -> Run:
    """Starts a run's directory, or continues the one that is there.

    Raises UserError for what cannot work, and if the directory holds a run of another experiment or of files that have
    changed since. With `profile`, a few steps are traced into its folder of that name.
    """
    check.validate(cfg)
    known = functools.cache(functools.partial(load, data_dir=cfg.data_dir))
    tasks = [known(operation.task, inputs_file=operation.inputs.file) for operation in cfg.operations]
    others = [tuple(map(known, operation.inputs.tasks)) for operation in cfg.operations]
    for operation, task, joined in zip(cfg.operations, tasks, others, strict=True):
        _check_task(cfg, operation, task, joined)
    directory.check(cfg, workdir)
    run, read = _load(cfg, workdir, Profile(workdir / "profile" if profile else None))
    run = dataclasses.replace(run, teachers=tuple(_teacher(run, teacher, read) for teacher in cfg.teachers))
    views = [_views(run, operation, task) for operation, task in zip(cfg.operations, tasks, strict=True)]
    assignments = tuple(
        Assignment(operation.title, task, joined, operation.inputs, view, operation.keep)
        for operation, task, joined, view in zip(cfg.operations, tasks, others, views, strict=True)
    )
    run = dataclasses.replace(run, assignments=assignments)
    sides.check(cfg, run.student, run.teachers, views)
    _check_prompts(run)
    run = _in_context(run)
    directory.begin(cfg, workdir)
    if cfg.devices.dtype == "auto":
        _tell_precision(run)
    return run


def reopen(workdir: Path) -> Run:
    """The run of a directory, from its own config.json; without teachers and assignments: it needs no task's files."""
    return _load(load_config(workdir / "config.json"), workdir, Profile(None))[0]


def _load(cfg: Experiment, workdir: Path, profile: Profile) -> tuple[Run, Load]:
    """The run with its student, and what loads further models as they are loaded for it."""
    compiled.keep()
    devices = cfg.devices
    mesh = parallel.make_mesh(devices.mesh.data, devices.mesh.fsdp, devices.mesh.tensor)
    for training in cfg.trainings().values():
        batches.check(training.update, mesh)
    journal = Journal(workdir / "journal.json")

    @functools.cache
    def read(model: str, layers: tuple[int, ...]) -> Loaded:
        if path := prefix.find(model):
            raise UserError(
                f"{model} holds a prefix, which the model of a run does not read: give the model that {path} names, "
                f"and start a student from the prefix (student.kind=kv_prefix, student.start=file, student.file={path})"
            )
        return source.load(model, mesh, dtype=directory.dtype(cfg, journal), remat=devices.remat, layers=layers)

    model, tokenizer, about = read(cfg.model, cfg.layers)
    # Until there are tasks: trained weights do not depend on what stands in the context's place.
    unknown = np.zeros(cfg.limits.teacher_prompt, np.int32)
    run = Run(
        cfg=cfg,
        workdir=workdir,
        mesh=mesh,
        student=side(model, cfg.student, unknown),
        format=sides.format(tokenizer, cfg.template, about["stop_ids"]),
        origin=Origin(cfg.model, cfg.layers, tokenizer, tuple(about["stop_ids"])),
        teachers=(),
        assignments=(),
        journal=journal,
        metrics=Metrics(workdir / "metrics.jsonl"),
        profile=profile,
    )
    return run, read


def _teacher(run: Run, cfg: config.Teacher, read: Load) -> Teacher:
    """A teacher as it is before its training, with the student's arrays where it is the same model."""
    if run.cfg.alike(cfg):
        return Teacher(run.student, run.format)
    model, tokenizer, about = read(cfg.model or run.cfg.model, cfg.layers)
    made = side(model, cfg.trains or run.cfg.student, run.student.context) if cfg.training else sides.untrained(model)
    return Teacher(made, sides.format(tokenizer, cfg.template or run.cfg.template, about["stop_ids"]))


def _views(run: Run, operation: Operation, task: Task) -> Views:
    limits = run.cfg.limits

    def view(format: Format, context: config.Context, budget: int) -> View:
        return View(format, context, task, budget, limits.overflow)

    first, *others = (teacher.format for teacher in run.teachers)
    return Views(
        teacher=view(first, operation.context, limits.teacher_prompt),
        student=view(run.format, operation.student_context, limits.student_prompt),
        bare=view(first, operation.student_context, limits.teacher_prompt),
        others=tuple(view(format, operation.context, limits.teacher_prompt) for format in others),
    )


def _in_context(run: Run) -> Run:
    """The run whose sides know what the first operation's teacher reads before every input, in tokens of their own."""
    first = run.assignments[0]

    def read_by(side: Side, format: Format) -> Side:
        view = dataclasses.replace(first.views.teacher, format=format, budget=NO_LIMIT)
        context = view.prompts([example.input for example in first.task.test])[0].context
        return dataclasses.replace(side, context=context)

    student = read_by(run.student, run.format)
    teachers = (
        dataclasses.replace(
            teacher, side=student if teacher.side is run.student else read_by(teacher.side, teacher.format)
        )
        for teacher in run.teachers
    )
    return dataclasses.replace(run, student=student, teachers=tuple(teachers))


def _check_task(cfg: Experiment, operation: Operation, task: Task, others: Sequence[Task]) -> None:
    """Raises UserError for what the operation asks of a task that does not have it."""
    inputs.check(task, operation.inputs, others)
    asks_answers = "correct" in {part.kind for part in operation.keep.filters}
    asked = {source.kind for training in cfg.trainings().values() for source in training.asks if source.needs}
    tuned = [path for path, training in cfg.trainings().items() if training.tune.lrs]
    wrong = {
        "the filter 'correct', but its answers are not known": asks_answers and not task.solve,
        f"its answers (source {', '.join(sorted(asked))}), and it knows none": bool(asked) and not task.solve,
        f"{' and '.join(tuned)} a learning rate (tune.lrs), but it has no labelled validation examples": bool(tuned)
        and not task.validation,
    }
    if problems := [problem for problem, is_so in wrong.items() if is_so]:
        raise UserError(f"operation {operation.title!r} asks of task {task.name!r}: {'; '.join(problems)}")


def _check_prompts(run: Run) -> None:
    """Raises UserError for examples whose prompts are too long, and for solved examples that are not there."""
    cfg = run.cfg
    tuned = any(training.tune.lrs for training in cfg.trainings().values())
    for assignment in run.assignments:
        asked = (*assignment.task.test, *assignment.task.validation[: cfg.score.validation if tuned else 0])
        assignment.views.prompts([example.input for example in asked])
    learned: list[tuple[config.Training | None, Teacher | None]]
    learned = [(cfg.training, None), *((baseline.training, None) for baseline in cfg.baselines)]
    learned += [(made.training, teacher) for made, teacher in zip(cfg.teachers, run.teachers, strict=True)]
    for training, teacher in learned:
        for shown in training.shows if training else ():
            shown.solved(run.known(teacher))


def _tell_precision(run: Run) -> None:
    """Writes down what `dtype="auto"` chose, for every later start of this run, and says it once."""
    if not run.journal.done("precision"):
        chosen = run.journal.once("precision", lambda: precision.choose(run.student.model.decoder.spec))
        times = " and ".join(f"{1000 * seconds:.0f} ms in {kind}" for kind, seconds in chosen["seconds"].items())
        sys.stderr.write(f"computing in {chosen['dtype']}: the products of 256 tokens take {times} here\n")
