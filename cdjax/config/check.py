"""What in an experiment cannot work, found before anything is compiled.

Parts refuse by themselves what their own fields cannot be (`parts.problems`); here is what one part needs and another
does not give.
"""

from collections.abc import Iterator

from cdjax import parts
from cdjax.config.experiment import Experiment
from cdjax.errors import UserError


def validate(cfg: Experiment) -> None:
    """Raises one UserError that lists everything in the experiment that cannot work."""
    if problems := list(parts.problems(cfg)):
        raise UserError("; ".join(problems))


def together(cfg: Experiment) -> Iterator[str]:
    """A sentence for every part that needs what the others do not give."""
    if not cfg.operations:
        yield "operations is empty: there is nothing to distil"
    if not cfg.teachers:
        yield "teachers is empty: give one, the default is the model itself"
    if not cfg.operations or not cfg.teachers:
        return
    yield from _rounds(cfg)
    yield from _trainings(cfg)
    yield from _sides(cfg)
    yield from _operations(cfg)
    yield from _measures(cfg)


def _rounds(cfg: Experiment) -> Iterator[str]:
    plan, names = cfg.plan, [operation.title for operation in cfg.operations]
    if plan.rounds and len(set(names)) < len(names):
        yield f"plan.rounds tell operations by their names, and these are not all different: {', '.join(names)}"
    for number, group in enumerate(plan.rounds):
        if not group or len(set(group)) < len(group) or not set(group) <= set(names):
            yield f"plan.rounds.{number}={list(group)} must be different names out of {', '.join(names)}"
    if plan.rounds and (unused := [name for name in names if name not in sum(plan.rounds, ())]):
        yield f"plan.rounds leave out {', '.join(unused)}"
    for number, baseline in enumerate(cfg.baselines):
        learned = {source.kind for source in baseline.training.sources}
        if plan.rounds and learned != {"written"}:
            yield f"baselines.{number} learns all operations at once; leave it out where plan.rounds group them"


def _trainings(cfg: Experiment) -> Iterator[str]:
    """What trainings need of devices, of scores and of each other."""
    baselines = [baseline.name for baseline in cfg.baselines]
    if len(set(baselines)) < len(baselines):
        yield f"baselines need different names, got {', '.join(baselines)}"
    devices = max(1, cfg.devices.mesh.data) * cfg.devices.mesh.fsdp  # with data=-1 counted when there is a mesh
    for path, training in cfg.trainings().items():
        update = training.update
        if update.micro_batches <= update.batch < update.micro_batches * devices:
            yield (
                f"{path}.update.batch={update.batch} cannot be cut into {update.micro_batches * devices} parts of one "
                "pair or more (update.micro_batches times devices.mesh.data times devices.mesh.fsdp)"
            )
        if path == "training" and cfg.score.every == "segment" and not update.every:
            yield "score.every='segment' is for rounds in segments: set training.update.every"
        if training.tune.lrs and not cfg.score.validation:
            yield f"{path}.tune needs score.validation examples to choose its learning rate on"


def _sides(cfg: Experiment) -> Iterator[str]:
    """A sentence for everything that asks for sides which are alike, or for a single teacher."""
    plan, first, others = cfg.plan, cfg.teachers[0], cfg.teachers[1:]
    unlike = [number for number, teacher in enumerate(cfg.teachers) if not cfg.alike(teacher)]
    whose = f"teachers.{unlike[0]} has a model, layers, template or weights of its own" if unlike else ""
    follows = plan.order == "recursive" or (plan.ema_every == "segment" and cfg.training.update.every)
    if plan.ema and not follows:
        yield (
            f"plan.ema={plan.ema:g} is for plan.order='recursive', or with plan.ema_every='segment' for "
            "training.update.every"
        )
    several = plan.repeat > 1 or plan.rounds or (plan.order != "simultaneous" and len(cfg.operations) > 1)
    if plan.ema and plan.ema_every == "segment" and several:
        yield "plan.ema_every='segment' averages inside a round, and the plan has several: leave it 'round'"
    if plan.order == "recursive" or plan.ema:
        asked = f"plan.ema={plan.ema:g}" if plan.ema else "plan.order='recursive'"
        if whose:
            yield f"{asked} puts the student in the teacher's place, and they are unlike: {whose}"
        if others:
            yield f"{asked} has one teacher, and teachers are {len(cfg.teachers)}"
    if plan.ema and cfg.student.kind == "kv_prefix":
        yield "plan.ema with student.kind='kv_prefix' averages sides that are unlike: the first teacher has no prefix"
    elif plan.ema and cfg.student.kind != "whole" and first.training is not None:
        yield (
            f"plan.ema with student.kind={cfg.student.kind!r} needs a teacher and a student that begin alike: "
            "leave teachers.0.training out"
        )
    for path, training in cfg.trainings().items():
        if training.start == "teacher" and not cfg.alike(first):
            yield f"{path}.start='teacher' needs a teacher like the student, and they are unlike: {whose}"
        if training.rereads and others:
            yield (
                f"{path}.targets.kind={training.targets.kind!r} reads one teacher in every update, and teachers are "
                f"{len(cfg.teachers)}; use 'top_k' or 'draws', which are recorded of all"
            )
        if training.sampling.draft and others:
            yield f"{path}.sampling.draft={training.sampling.draft} has one teacher; set it to 0"


def _operations(cfg: Experiment) -> Iterator[str]:
    """What ensembles and filters need of how answers are drawn."""
    several = "reads the teacher under one prompt, and context.ensemble asks for several"
    ensembles = any(operation.context.ensemble for operation in cfg.operations)
    filters = [
        (f"operations.{number}.keep.filters.{place}", part)
        for number, operation in enumerate(cfg.operations)
        for place, part in enumerate(operation.keep.filters)
    ]
    for path, training in cfg.trainings().items():
        if not training.asks:
            continue
        if ensembles and training.sampling.draft:
            yield f"{path}.sampling.draft={training.sampling.draft} {several}; set it to 0"
        if ensembles and training.rereads:
            yield (
                f"{path}.targets.kind={training.targets.kind!r} {several}; use 'top_k' or 'draws', which are recorded "
                "when it answers"
            )
        for place, part in filters:
            if "several answers to an input" in getattr(part, "needs", ()) and training.sampling.per_input < 2:
                yield f"{place}: {part.kind} needs several answers to an input; raise {path}.sampling.per_input"


def _measures(cfg: Experiment) -> Iterator[str]:
    """What a measure needs of operations and teachers, and they do not give."""
    ensembles = [operation.title for operation in cfg.operations if operation.context.ensemble]
    missing = {
        "one prompt": f"the teacher of {', '.join(ensembles)} reads several (context.ensemble)" if ensembles else "",
        "several views": "; ".join(_viewed_alike(cfg)),
    }
    for number, measure in enumerate(cfg.score.measures):
        for need in sorted(getattr(measure, "needs", ())):
            if missing.get(need):
                yield f"score.measures.{number}: {measure.kind} needs {need}, and {missing[need]}; leave it out"


def _viewed_alike(cfg: Experiment) -> Iterator[str]:
    """Rounds whose operations cannot be told apart by what the student is shown."""
    named = {operation.title: operation for operation in cfg.operations}
    groups = [tuple(named[name] for name in group if name in named) for group in cfg.plan.rounds]
    for group in groups or [cfg.operations]:
        views = len({operation.student_context for operation in group})
        if len(group) < 2 or views < len(group):
            names = ", ".join(operation.title for operation in group)
            yield f"a round asks {names}: {len(group)} with {views}"
