"""What in an experiment cannot work, found before anything is compiled.

In: an `Experiment`. Out: nothing, or one UserError with a sentence for every problem: what was given, what was wanted.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cdjax import config, parts
from cdjax.errors import UserError
from cdjax.losses import reads_teacher, unmet

SCORED = {"teacher", "before", "after", "gradient_descent"}  # the scores that every run has, or may have
# The least value of every number that has one.
LEAST: dict[str, float] = {
    "sampling.temperature": 0,
    "sampling.top_k": 0,
    "sampling.per_input": 1,
    "sampling.batch": 1,
    "sampling.draft": 0,
    "optim.warmup": 0,
    "optim.weight_decay": 0,
    "optim.clip": 0,
    "update.epochs": 1,
    "update.batch": 1,
    "update.micro_batches": 1,
    "update.checkpoint_every": 0,
    "limits.teacher_prompt": 1,
    "limits.student_prompt": 1,
    "limits.completion": 1,
    "tune.every": 1,
    "score.examples": 1,
    "score.validation": 0,
    "score.baseline.epochs": 1,
    "score.baseline.every": 1,
    "score.baseline.batch": 1,
    "plan.repeat": 1,
    "mesh.fsdp": 1,
    "mesh.tensor": 1,
}
POSITIVE = ("optim.lr", "sampling.top_p")
FRACTIONS = ("sampling.top_p",)


def validate(cfg: config.Experiment) -> None:
    """Raises one UserError that lists everything in the experiment that cannot work, before anything is compiled."""
    problems = [
        *parts.problems(cfg),
        *_numbers(cfg),
        *_whole(cfg),
        *_update(cfg),
        *_plan(cfg),
        *_supervised(cfg),
        *_ensembles(cfg),
        *_measures(cfg),
        *_source(cfg),
    ]
    for index, operation in enumerate(cfg.operations()):
        where = f"plan.operations.{index}." if cfg.plan.operations else ""
        problems += (where + problem for problem in _operation(operation, cfg.sampling))
    if problems:
        raise UserError("; ".join(problems))


def _numbers(cfg: config.Experiment) -> Iterator[str]:
    def at(path: str) -> Any:
        return functools.reduce(getattr, path.split("."), cfg)

    for path, least in LEAST.items():
        if at(path) < least:
            yield f"{path} must be at least {least:g}, got {at(path):g}"
    for path in POSITIVE:
        if at(path) <= 0:
            yield f"{path} must be more than 0, got {at(path):g}"
    for path in FRACTIONS:
        if not 0 <= at(path) <= 1:
            yield f"{path} must be between 0 and 1, got {at(path):g}"
    if not cfg.seeds or len(set(cfg.seeds)) < len(cfg.seeds) or not 0 <= min(cfg.seeds) <= max(cfg.seeds) < 2**32:
        yield f"seeds must be different numbers from 0 to 2**32 - 1, at least one; got {list(cfg.seeds)}"
    if cfg.mesh.data < 1 and cfg.mesh.data != -1:
        yield f"mesh.data must be at least 1, or -1 for the devices that are left; got {cfg.mesh.data}"


def _whole(cfg: config.Experiment) -> Iterator[str]:
    if not cfg.name or not cfg.model:
        yield "name and model must not be empty"
    if cfg.data_dir and not Path(cfg.data_dir).is_dir():
        yield f"data_dir is {cfg.data_dir!r}, which is not a directory"
    if (cfg.model.endswith(".gguf") or cfg.model.startswith((".", "/"))) and not Path(cfg.model).exists():
        yield f"model is {cfg.model!r}, and there is no such file or directory"
    sampling, plain = cfg.sampling, not cfg.template.chat
    if not cfg.losses:
        yield "losses is empty: there is nothing to learn by"
    yield from unmet(cfg.losses, cfg.targets)
    if sampling.per_input > 1 and sampling.temperature == 0:
        yield f"sampling.per_input={sampling.per_input} greedy samples are all the same; raise sampling.temperature"
    if plain and ("{input}" not in cfg.template.question or "{output}" not in cfg.template.answer):
        yield "template.question must contain {input} and template.answer {output}"
    if plain and not cfg.template.stop:
        yield "template.stop is empty: no answer would ever end"


def _update(cfg: config.Experiment) -> Iterator[str]:
    update, baseline, mesh = cfg.update, cfg.score.baseline, cfg.mesh
    # with data=-1 devices are counted when there is a mesh
    pieces = update.micro_batches * max(1, mesh.data) * mesh.fsdp
    if update.batch < pieces:
        yield (
            f"update.batch={update.batch} cannot be cut into {pieces} parts of one pair or more "
            "(update.micro_batches times mesh.data times mesh.fsdp)"
        )
    for name, grid, epochs in (("score.baseline", baseline, baseline.epochs), ("tune", cfg.tune, update.epochs)):
        if any(lr <= 0 for lr in grid.lrs):
            yield f"{name}.lrs must be more than 0, got {list(grid.lrs)}"
        if grid.lrs and not cfg.score.validation:
            yield f"{name} needs score.validation examples to choose its learning rate on"
        if grid.lrs and grid.every > epochs:
            yield f"{name}.every={grid.every} is more than the epochs, {epochs}; it is scored at the end in any case"
    if cfg.tune.lrs and update.every:
        yield "update.every writes answers anew while the student learns: choose one learning rate, without tune.lrs"
    if cfg.tune.lrs and update.checkpoint_every:
        yield "update.checkpoint_every is for one learning rate: an update over tune.lrs starts again if it is stopped"


def _plan(cfg: config.Experiment) -> Iterator[str]:
    plan, names = cfg.plan, [operation.name for operation in cfg.operations()]
    follows = plan.order == "recursive" or (plan.ema_every == "segment" and cfg.update.every)
    if not 0 <= plan.ema < 1 or (plan.ema and not follows):
        yield (
            f"plan.ema={plan.ema:g} must be at least 0 and less than 1, and is for plan.order='recursive', or with "
            "plan.ema_every='segment' for update.every"
        )
    if plan.ema and cfg.student.kind == "kv_prefix":
        yield "plan.ema with student.kind='kv_prefix' averages sides that are unlike: the first teacher has no prefix"
    elif plan.ema and cfg.student.kind != "whole" and cfg.teacher.examples:
        yield (
            f"plan.ema with student.kind={cfg.student.kind!r} needs a teacher and a student that begin alike: "
            "leave teacher.examples out"
        )
    if plan.rounds and plan.order == "simultaneous":
        yield "plan.rounds follow one another: plan.order must be 'sequential' or 'recursive'"
    if plan.rounds and len(set(names)) < len(names):
        yield f"plan.rounds tell operations by their names, and these are not all different: {', '.join(names)}"
    for number, group in enumerate(plan.rounds):
        if not group or len(set(group)) < len(group) or not set(group) <= set(names):
            yield f"plan.rounds.{number}={list(group)} must be different names out of {', '.join(names)}"
    if plan.rounds and (unused := [name for name in names if name not in sum(plan.rounds, ())]):
        yield f"plan.rounds leave out {', '.join(unused)}"
    if plan.rounds and cfg.score.baseline.lrs:
        yield "score.baseline fits all operations at once; leave it out where plan.rounds group them"


def _measures(cfg: config.Experiment) -> Iterator[str]:
    """What a measure needs of the operations, and they do not give."""
    kinds = [measure.kind for measure in cfg.score.measures]
    if len(set(kinds)) < len(kinds):
        yield f"score.measures has a kind twice: {', '.join(kinds)}"
    ensembles = [operation.name for operation in cfg.operations() if operation.context.ensemble]
    alike = list(_alike(cfg))
    missing = {
        "one prompt": f"the teacher of {', '.join(ensembles)} reads several (context.ensemble)" if ensembles else "",
        "several views": "; ".join(alike),
    }
    for index, measure in enumerate(cfg.score.measures):
        for need in sorted(getattr(measure, "needs", ())):
            if missing[need]:
                yield f"score.measures.{index}: {measure.kind} needs {need}, and {missing[need]}; leave it out"


def _alike(cfg: config.Experiment) -> Iterator[str]:
    """Rounds whose operations cannot be told apart by what the student is shown."""
    every = cfg.operations()
    for group in [tuple(one for one in every if one.name in group) for group in cfg.plan.rounds] or [every]:
        views = len({operation.student_context for operation in group})
        if len(group) < 2 or views < len(group):
            names = ", ".join(operation.name for operation in group)
            yield f"a round asks {names}: {len(group)} with {views}"


def _supervised(cfg: config.Experiment) -> Iterator[str]:
    baselines = cfg.score.supervised
    names = [one.name for one in baselines]
    if not all(names) or len(set(names)) < len(names) or SCORED & set(names):
        yield f"score.supervised needs different names, none of them {', '.join(sorted(SCORED))}; got {names}"
    if cfg.teacher.start == "teacher":
        yield "teacher.start='teacher' has no meaning: the teacher is made out of the model"
    at = {"teacher": cfg.teacher} | {f"score.supervised.{number}": one for number, one in enumerate(baselines)}
    for path, one in at.items():
        if path != "teacher" and not one.examples:
            yield f"{path}.examples is empty: there is nothing to fine-tune on"
        if one.optim.lr <= 0 or min(one.update.epochs, one.update.batch, one.update.micro_batches) < 1:
            yield f"{path} must have an optim.lr of more than 0, and epochs, batch and micro_batches of at least 1"
        yield from _labelled(f"{path}.examples", one.examples)
    yield from _labelled("replay", cfg.replay)
    if cfg.replay:
        yield from _replay(cfg)


def _replay(cfg: config.Experiment) -> Iterator[str]:
    said = "replay has written answers, as if drawn from a distribution that nobody knows"
    if reads_teacher(cfg.losses, cfg.targets):
        yield f"{said}; targets.kind={cfg.targets.kind!r} reads the teacher, which did not write them"
    for number, loss in enumerate(cfg.losses):
        if loss.needs and "draws" not in loss.needs:
            yield f"{said}; losses.{number}: {loss.kind} does not do with draws"


def _labelled(path: str, examples: tuple[config.Labelled, ...]) -> Iterator[str]:
    for number, shown in enumerate(examples):
        where = f"{path}.{number}"
        if not shown.task or (shown.count < 1) != bool(shown.demonstrations):
            yield (
                f"{where} must have a task, and a count of at least 1 or demonstrations; got {shown.task!r}, "
                f"{shown.count} and {len(shown.demonstrations)}"
            )
        yield from (f"{where}.view.{problem}" for problem in _context(shown.view, shown.task))


def _ensembles(cfg: config.Experiment) -> Iterator[str]:
    if not any(operation.context.ensemble for operation in cfg.operations()):
        return
    several = "reads the teacher under one prompt, and context.ensemble asks for several"
    if cfg.sampling.draft:
        yield f"sampling.draft={cfg.sampling.draft} {several}; set it to 0"
    if reads_teacher(cfg.losses, cfg.targets):
        yield f"targets.kind={cfg.targets.kind!r} {several}; use 'top_k' or 'draws', which are recorded when it answers"


def _source(cfg: config.Experiment) -> Iterator[str]:
    """What only a teacher that writes can be asked for."""
    if cfg.source.kind == "teacher":
        return
    for name, value in (("draft", cfg.sampling.draft), ("weights", cfg.sampling.weights)):
        if value not in (0, "full"):
            yield f"sampling.{name}={value} is of a teacher that writes, and source.kind is {cfg.source.kind!r}"


def _operation(operation: config.Operation, sampling: config.Sampling) -> Iterator[str]:
    yield from (f"inputs.{problem}" for problem in _inputs(operation.inputs, operation.task))
    for name, context in (("context", operation.context), ("student_context", operation.student_context)):
        yield from (f"{name}.{problem}" for problem in _context(context, operation.task, teacher=name == "context"))
    filters = {part.kind for part in operation.keep.filters}
    if "correct" in filters and not operation.task:
        yield "keep.filters has 'correct', which needs a task that grades answers"
    if "majority" in filters and sampling.per_input < 2:
        yield "keep.filters has 'majority', which needs several answers an input; raise sampling.per_input"


def _inputs(inputs: config.Inputs, task: str) -> Iterator[str]:
    if inputs.file and not Path(inputs.file).is_file():
        yield f"file is {inputs.file!r}, which does not exist"
    elif inputs.file and not Path(inputs.file).read_text(encoding="utf-8", errors="replace").strip():
        yield f"file is {inputs.file!r}, which is empty"
    if not task and not inputs.file:
        yield "file is needed where there is no task"
    if not (inputs.pool or inputs.tasks or inputs.file or inputs.rule or inputs.written):
        yield "pool, inputs.tasks, file, rule and written are all off: choose where the inputs come from"
    if task in inputs.tasks or "" in inputs.tasks or len(set(inputs.tasks)) < len(inputs.tasks):
        yield f"tasks={list(inputs.tasks)} must be different names of other tasks; inputs.pool is {task!r}'s own"
    for name in ("rule", "written", "limit"):
        if getattr(inputs, name) < 0:
            yield f"{name} must be at least 0, got {getattr(inputs, name)}"
    for name in ("written_shots", "written_tokens"):
        if inputs.written and getattr(inputs, name) < 1:
            yield f"{name} must be at least 1, got {getattr(inputs, name)}"


def _context(context: config.Context, task: str, *, teacher: bool = False) -> Iterator[str]:
    if context.file and not Path(context.file).is_file():
        yield f"file is {context.file!r}, which does not exist"
    if context.file and context.instruction:
        yield "file stands in the instruction's place: give one of the two"
    for name in ("shots", "negative_shots"):
        written = context.per_row and name == "shots" and context.demonstrations
        if (count := getattr(context, name)) < 0 or (count and not task and not written):
            kind = name.replace("shots", "demonstrations").replace("_", " ")
            yield f"{name}={count} must be a number of the task's own {kind}, and task is {task!r}"
    if context.ensemble and not teacher:
        yield f"ensemble={context.ensemble}: only what a teacher reads is averaged over prompts"
    shown = len(context.demonstrations) + context.shots
    least, most = (1, shown) if context.ensemble else (0, 0)
    if context.ensemble < 0 or not least <= context.drawn <= most:
        yield (
            f"ensemble={context.ensemble} prompts with drawn={context.drawn} of {shown} demonstrations each: "
            "an ensemble draws at least one and at most all, and nothing is drawn without one"
        )
    if config.DEFINITION in context.instruction and not task:
        yield f"instruction has {config.DEFINITION}, which is a task's, and task is ''"
