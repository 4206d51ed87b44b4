"""An experiment and a directory -> `Run`: everything that the stages of a run have in common, put together once.

What can be wrong with the user's files is found here, before anything is compiled.
"""

import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int32

from cdjax import compiled, parallel
from cdjax.config import Experiment, Operation, Supervised, check, load_config
from cdjax.errors import UserError
from cdjax.lessons import batches
from cdjax.lessons.assignment import Assignment
from cdjax.lessons.labelled import Labelled, Solved, labelled
from cdjax.losses import misfits
from cdjax.model import precision
from cdjax.model.files import source
from cdjax.model.reader import Reader
from cdjax.score.exam import Exam
from cdjax.students import Trainable
from cdjax.students.models import Models, models
from cdjax.tasks import Task, inputs, load
from cdjax.views import encode
from cdjax.views.view import Format, View, Views
from cdjax.workdir import directory
from cdjax.workdir.journal import Journal
from cdjax.workdir.metrics import Metrics
from cdjax.workdir.profile import Profile


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that goes on in `workdir`. Rooms never see it: they get the part of it that they read."""

    cfg: Experiment
    workdir: Path
    mesh: jax.sharding.Mesh
    models: Models
    format: Format
    ends: tuple[int, ...]  # the model's own end ids
    assignments: tuple[Assignment, ...]  # one an operation
    journal: Journal
    metrics: Metrics
    profile: Profile

    def reader(self, params: Trainable | None) -> Reader:
        """What these trainable weights read as; None is the model that the run began with."""
        return self.models.reader(params)

    @property
    def before(self) -> Reader:
        """What a student is compared with: the model, or the first teacher, without the context."""
        return self.reader(None if self.cfg.start == "model" else self.models.original)

    @property
    def exam(self) -> Exam:
        """What models are asked when they are scored."""
        score, steps, batch = self.cfg.score, self.cfg.limits.completion, self.cfg.sampling.batch
        return Exam(self.assignments, self.mesh, score.examples, steps, batch)

    def labelled(self, examples: Labelled) -> list[Solved]:
        """Solved examples of a task under their view; see `lessons.labelled`."""
        task = load(examples.task, data_dir=self.cfg.data_dir)
        return labelled(examples, task, self.format, self.cfg.limits.teacher_prompt)


def open(cfg: Experiment, workdir: Path, *, profile: bool = False) -> Run:
    """Starts a run's directory, or continues the one that is there.

    Raises UserError for what cannot work, and if the directory holds a run of another experiment or of files that have
    changed since. With `profile`, a few steps are traced into its folder of that name.
    """
    check.validate(cfg)
    known = functools.cache(functools.partial(load, data_dir=cfg.data_dir))
    tasks = [known(operation.task, inputs_file=operation.inputs.file) for operation in cfg.operations()]
    others = [tuple(map(known, operation.inputs.tasks)) for operation in cfg.operations()]
    for operation, task, joined in zip(cfg.operations(), tasks, others, strict=True):
        _check_task(cfg, operation, task, joined)
    directory.check(cfg, workdir)
    run = _load(cfg, workdir, Profile(workdir / "profile" if profile else None))
    views = [_views(cfg, run.format, operation, task) for operation, task in zip(cfg.operations(), tasks, strict=True)]
    assignments = tuple(
        Assignment(operation.name, task, joined, operation.inputs, view, operation.keep)
        for operation, task, joined, view in zip(cfg.operations(), tasks, others, views, strict=True)
    )
    run = dataclasses.replace(run, assignments=assignments)
    _check_prompts(run)
    run = dataclasses.replace(run, models=dataclasses.replace(run.models, context=_context(assignments[0])))
    directory.begin(cfg, workdir)
    if cfg.dtype == "auto":
        _tell_precision(run)
    return run


def _context(assignment: Assignment) -> Int32[np.ndarray, "P"]:
    """What the teacher reads before every input."""
    return assignment.views.teacher.prompts([example.input for example in assignment.task.test])[0].context


def reopen(workdir: Path) -> Run:
    """The run of a directory, from its own config.json; without assignments, so that it needs no task's files."""
    return _load(load_config(workdir / "config.json"), workdir, Profile(None))


def _load(cfg: Experiment, workdir: Path, profile: Profile) -> Run:
    compiled.keep()
    mesh = parallel.make_mesh(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor)
    batches.check(cfg.update, mesh)
    journal = Journal(workdir / "journal.json")
    model, tokenizer, about = source.load(cfg.model, mesh, dtype=directory.dtype(cfg, journal), remat=cfg.remat)
    wrong = [f"targets.{problem}" for problem in cfg.targets.misfits(model.spec.vocab)]
    if wrong := [*wrong, *misfits(cfg.losses, model.spec, model.spec)]:
        raise UserError("; ".join(wrong))
    # Until there are tasks: trained weights do not depend on what stands in the context's place.
    unknown = np.zeros(cfg.limits.teacher_prompt, np.int32)
    return Run(
        cfg=cfg,
        workdir=workdir,
        mesh=mesh,
        models=models(model, cfg.student, unknown),
        format=_format(cfg, tokenizer, about["stop_ids"]),
        ends=tuple(about["stop_ids"]),
        assignments=(),
        journal=journal,
        metrics=Metrics(workdir / "metrics.jsonl"),
        profile=profile,
    )


def _format(cfg: Experiment, tokenizer: Any, ends: Sequence[int]) -> Format:
    return Format(tokenizer, cfg.template, encode.stop_ids(tokenizer, cfg.template, ends))


def _views(cfg: Experiment, format: Format, operation: Operation, task: Task) -> Views:
    limits = cfg.limits
    return Views(
        View(format, operation.context, task, limits.teacher_prompt, limits.overflow),
        View(format, operation.student_context, task, limits.student_prompt, limits.overflow),
    )


def _check_task(cfg: Experiment, operation: Operation, task: Task, others: Sequence[Task]) -> None:
    """Raises UserError for what the operation asks of a task that does not have it."""
    inputs.check(task, operation.inputs, others)
    baseline = bool(cfg.score.baseline.lrs)
    shown = operation.context.demonstrations or task.demonstrations[: operation.context.shots]
    asks_answers = "correct" in {part.kind for part in operation.keep.filters}
    wrong = {
        "the filter 'correct', but its answers are not known": asks_answers and not task.solve,
        "score.baseline, but its context has no demonstrations": baseline and not shown,
        "score.baseline, but it has no labelled validation examples": baseline and not task.validation,
        "tune, but it has no labelled validation examples": bool(cfg.tune.lrs) and not task.validation,
    }
    if problems := [problem for problem, is_so in wrong.items() if is_so]:
        raise UserError(f"operation {operation.name!r} asks of task {task.name!r}: {'; '.join(problems)}")


def _check_prompts(run: Run) -> None:
    """Raises UserError for examples whose prompts are too long, and for batches that this mesh cannot split."""
    cfg = run.cfg
    validated = cfg.score.validation if cfg.tune.lrs or cfg.score.baseline.lrs else 0
    for assignment in run.assignments:
        asked = (*assignment.task.test, *assignment.task.validation[:validated])
        assignment.views.prompts([example.input for example in asked])
    tuned: tuple[Supervised, ...] = (cfg.teacher, *cfg.score.supervised)
    for training in tuned:
        batches.check(training.update, run.mesh)
    for examples in directory.labelled(cfg):
        run.labelled(examples)


def _tell_precision(run: Run) -> None:
    """Writes down what `dtype="auto"` chose, for every later start of this run, and says it once."""
    if not run.journal.done("precision"):
        chosen = run.journal.once("precision", lambda: precision.choose(run.reader(None).decoder.spec))
        times = " and ".join(f"{1000 * seconds:.0f} ms in {kind}" for kind, seconds in chosen["seconds"].items())
        sys.stderr.write(f"computing in {chosen['dtype']}: the products of 256 tokens take {times} here\n")
