"""What stays the same through a run: its experiment, tasks, tokenizer, mesh, and the model that it began with.

In: an `Experiment` and a directory. Out: `Setting`, which everything after reads and nothing changes.
"""

import dataclasses
import functools
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jax
import numpy as np
from flax import nnx
from jaxtyping import Int32

from cdjax import compiled, config, parallel
from cdjax.config import check
from cdjax.errors import UserError
from cdjax.lessons import batches
from cdjax.model import precision
from cdjax.model.decoder import Decoder
from cdjax.model.files import source
from cdjax.students import trainable
from cdjax.tasks import Task, inputs, load
from cdjax.views import encode
from cdjax.views.prompts import Prompts
from cdjax.workdir.journal import Journal
from cdjax.workdir.metrics import Metrics
from cdjax.workdir.profile import Profile

Solved: TypeAlias = tuple[Int32[np.ndarray, "_"], Int32[np.ndarray, "_"]]  # a prompt and the answer written to it


@dataclasses.dataclass(frozen=True)
class Views:
    """The same inputs as both sides see them, in the same order."""

    teacher: Prompts
    student: Prompts
    dropped: int  # inputs left out because a view was over its budget


@dataclasses.dataclass(frozen=True)
class Setting:
    """A run's fixed parts. `base` is the model's trainable state, `original` the first teacher's, `frozen` the rest."""

    cfg: config.Experiment
    workdir: Path
    mesh: jax.sharding.Mesh
    tokenizer: Any
    ends: tuple[int, ...]  # the model's own end ids
    stops: Int32[np.ndarray, "_"]  # those, and in plain text what contains the template's stop
    tasks: tuple[Task, ...]  # one for each of `cfg.operations()`
    others: tuple[tuple[Task, ...], ...]  # for each of them, those of its `inputs.tasks`
    graph: nnx.GraphDef
    base: nnx.State
    original: nnx.State  # `base`, until the teacher has been fine-tuned
    frozen: nnx.State
    journal: Journal
    metrics: Metrics
    profile: Profile

    def model(self, params: nnx.State) -> Decoder:
        """The decoder with these trainable weights."""
        return nnx.merge(self.graph, params, self.frozen)

    @property
    def before(self) -> nnx.State:
        """What a student begins as, whatever its seed: a fresh adapter changes nothing."""
        return self.base if self.cfg.start == "model" else self.original

    def start(self, seed: int, whose: Literal["teacher", "model"]) -> nnx.State:
        """The trainable state that a seed starts from: the weights or a fresh adapter that changes nothing."""
        if whose == "teacher" and self.cfg.teacher.examples:
            return self.original
        if not self.cfg.adapter.rank:
            return self.base
        model = trainable.without_adapter(self.model(self.base))
        return trainable.split(trainable.add_adapter(model, self.cfg.adapter, seed), self.cfg.adapter)[1]

    def views(self, number: int, texts: Sequence[str]) -> Views:
        """Teacher's and student's prompts of operation `number`; raises or drops what is over a budget."""
        operation, task = self.cfg.operations()[number], self.tasks[number]

        def view(context: config.Context, texts: Sequence[str], budget: int) -> tuple[Prompts, list[str]]:
            return encode.prompts(
                self.tokenizer,
                self.cfg.template,
                context,
                task,
                texts,
                budget=budget,
                overflow=self.cfg.limits.overflow,
            )

        teacher, long = view(operation.context, texts, self.cfg.limits.teacher_prompt)
        student, long_too = view(operation.student, teacher.inputs, self.cfg.limits.student_prompt)
        if long_too:
            teacher, _ = view(operation.context, student.inputs, self.cfg.limits.teacher_prompt)
        return Views(teacher, student, len(long) + len(long_too))

    def labelled(self, one: config.Labelled) -> list[Solved]:
        """Solved examples of a task under a view. Raises UserError if the task has fewer, or a prompt is too long."""
        task, limits = load(one.task, data_dir=self.cfg.data_dir), self.cfg.limits
        if one.count > (most := len(task.demonstrations)):
            raise UserError(f"{one.count} labelled examples asked of task {one.task!r}, which has {most}")
        shown = one.demonstrations or task.demonstrations[: one.count]
        return self.solved(task, one.view, shown, limits.teacher_prompt, "error")

    def solved(
        self,
        task: Task,
        view: config.Context,
        shown: Sequence[config.Demonstration],
        budget: int,
        overflow: Literal["error", "drop"],
    ) -> list[Solved]:
        """Demonstrations' inputs under a view, with the ids of their written answers."""
        how = self.tokenizer, self.cfg.template, view, task
        prompts, _ = encode.prompts(*how, [one.input for one in shown], budget=budget, overflow=overflow)
        fitting = set(prompts.inputs)
        answers = encode.answers(*how, [one for one in shown if one.input in fitting])
        return list(zip(prompts.whole, answers, strict=True))


def open(cfg: config.Experiment, workdir: Path, *, profile: bool = False) -> Setting:
    """Starts a run's directory, or continues the one that is there.

    Everything that can be wrong with the user's files is found here, before anything is compiled. Raises UserError,
    also if the directory holds a run of another experiment, or of files that have changed since.
    With `profile`, a few steps are traced into its folder of that name.
    """
    check.validate(cfg)
    known = functools.cache(functools.partial(load, data_dir=cfg.data_dir))
    tasks = tuple(known(operation.task, inputs_file=operation.inputs.file) for operation in cfg.operations())
    others = tuple(tuple(map(known, operation.inputs.tasks)) for operation in cfg.operations())
    for asked in zip(cfg.operations(), tasks, others, strict=True):
        _check_task(cfg, *asked)
    _check_same(cfg, workdir)
    here = _make(cfg, workdir, tasks, others, Profile(workdir / "profile" if profile else None))
    for number, task in enumerate(tasks):
        chosen_on = task.validation[: cfg.score.validation] if cfg.tune.lrs or cfg.score.baseline.lrs else ()
        here.views(number, [example.input for example in (*task.test, *chosen_on)])
    for one in (cfg.teacher, *cfg.score.supervised):
        batches.check(one.update, here.mesh)
    for labelled in _labelled(cfg):
        here.labelled(labelled)
    workdir.mkdir(parents=True, exist_ok=True)
    if cfg.dtype == "auto":
        _tell_precision(here)
    _write(workdir / "files.json", json.dumps(_digests(cfg), indent=2))
    _write(workdir / "config.json", config.to_json(cfg))
    return here


def reopen(workdir: Path) -> Setting:
    """The setting of a run directory, from its own config.json; without tasks, so that it needs none of their files."""
    return _make(config.load_config(workdir / "config.json"), workdir, (), (), Profile(None))


def _make(
    cfg: config.Experiment,
    workdir: Path,
    tasks: tuple[Task, ...],
    others: tuple[tuple[Task, ...], ...],
    profile: Profile,
) -> Setting:
    compiled.keep()
    mesh = parallel.make_mesh(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor)
    batches.check(cfg.update, mesh)
    journal = Journal(workdir / "journal.json")
    model, tokenizer, info = source.load(cfg.model, mesh, dtype=dtype(cfg, journal), remat=cfg.remat)
    if cfg.objective.targets == "top_k" and cfg.objective.top_k > model.spec.vocab:
        raise UserError(f"objective.top_k={cfg.objective.top_k} is over the vocabulary, {model.spec.vocab}")
    graph, original, frozen = trainable.split(trainable.add_adapter(model, cfg.adapter, 0), cfg.adapter)
    return Setting(
        cfg=cfg,
        workdir=workdir,
        mesh=mesh,
        tokenizer=tokenizer,
        ends=tuple(info["stop_ids"]),
        stops=encode.stop_ids(tokenizer, cfg.template, info["stop_ids"]),
        tasks=tasks,
        others=others,
        graph=graph,
        base=original,
        original=original,
        frozen=frozen,
        journal=journal,
        metrics=Metrics(workdir / "metrics.jsonl"),
        profile=profile,
    )


def dtype(cfg: config.Experiment, journal: Journal) -> str:
    """What the run computes in: the config's choice, or for "auto" what was measured when it began."""
    return str(journal.results().get("precision", {"dtype": cfg.dtype})["dtype"])


def _tell_precision(here: Setting) -> None:
    """Writes down what `dtype="auto"` chose, for every later start of this run, and says it once."""
    if not here.journal.done("precision"):
        found = here.journal.once("precision", lambda: precision.choose(here.model(here.original).spec))
        times = " and ".join(f"{1000 * seconds:.0f} ms in {kind}" for kind, seconds in found["seconds"].items())
        sys.stderr.write(f"computing in {found['dtype']}: the products of 256 tokens take {times} here\n")


def _check_task(cfg: config.Experiment, operation: config.Operation, task: Task, others: Sequence[Task]) -> None:
    """Raises UserError for what the operation asks of a task that does not have it."""
    inputs.check(task, operation.inputs, others)
    baseline = bool(cfg.score.baseline.lrs)
    shown = operation.context.demonstrations or task.demonstrations[: operation.context.shots]
    wrong = {
        "the filter 'correct', but its answers are not known": "correct" in operation.keep.filters and not task.solve,
        "score.baseline, but its context has no demonstrations": baseline and not shown,
        "score.baseline, but it has no labelled validation examples": baseline and not task.validation,
        "tune, but it has no labelled validation examples": bool(cfg.tune.lrs) and not task.validation,
    }
    if problems := [problem for problem, is_so in wrong.items() if is_so]:
        raise UserError(f"operation {operation.name!r} asks of task {task.name!r}: {'; '.join(problems)}")


def _check_same(cfg: config.Experiment, workdir: Path) -> None:
    if files := [one for one in (workdir, *workdir.parents) if one.exists() and not one.is_dir()]:
        raise UserError(f"--workdir {workdir}: {files[0]} is a file; give a directory")
    path = workdir / "config.json"
    if not path.exists():
        return
    before, now = json.loads(config.to_json(config.load_config(path))), json.loads(config.to_json(cfg))
    if set(before["seeds"]) <= set(now["seeds"]):  # more seeds only add to what is there
        before["seeds"] = now["seeds"]
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if changed:
        raise UserError(
            f"{workdir} holds a run of another experiment: {', '.join(changed)} differ from its config.json; "
            "give another --workdir, or delete that directory"
        )
    path = workdir / "files.json"
    known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    edited = sorted(name for name, digest in _digests(cfg).items() if known.get(name, digest) != digest)
    if edited:
        raise UserError(
            f"{workdir} holds a run that read {', '.join(edited)} before it was changed; "
            "give another --workdir, or change the file back"
        )


def _digests(cfg: config.Experiment) -> dict[str, str]:
    """SHA-256 of the user's own files that the experiment reads."""
    names = {
        name
        for operation in cfg.operations()
        for name in (operation.context.file, operation.student.file, operation.inputs.file)
    }
    names |= {labelled.view.file for labelled in _labelled(cfg)}
    return {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in sorted(names - {""})}


def _labelled(cfg: config.Experiment) -> list[config.Labelled]:
    """All solved examples that the experiment asks for."""
    return [*cfg.replay, *(shown for one in (cfg.teacher, *cfg.score.supervised) for shown in one.examples)]


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
