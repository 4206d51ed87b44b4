"""An experiment as data: what is distilled into what, and how.

A field is here only if two experiments differ in it; everything else is an argument default where it is used. Parts
with fields of their own stand beside the code that they configure; here they are put together.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cdjax.learn.training import Training, Tune, supervised
from cdjax.lessons import Update
from cdjax.lessons.operation import Operation
from cdjax.lessons.sources.demonstrations import FromDemonstrations
from cdjax.parts import at_least, between
from cdjax.score.measures import Measure
from cdjax.score.measures.forgetting import Forgetting
from cdjax.score.measures.held_out_kl import HeldOutKL
from cdjax.students import Student
from cdjax.students.whole import Whole
from cdjax.views.context import Template

SCORES = ("teacher", "before", "after")  # that every run has


@dataclass(frozen=True)
class Teacher:
    """A side that teaches: the student's model as it was before training, unless it is said to be another.

    A tokenizer and end ids come with the model. Soft targets ask for the student's vocabulary; where the tokenizers
    differ, what is learned is text.
    """

    model: str = ""  # a source of weights; empty: the student's
    layers: tuple[int, ...] = ()  # only these of its layers, in this order; empty: all
    template: Template | None = None  # none: the student's
    trains: Student | None = None  # what `training` trains; none: as the student's
    training: Training | None = None  # what makes the teacher out of its model before the first round

    def problems(self) -> Iterator[str]:
        """A training that asks a teacher, and what trains without one."""
        if self.trains is not None and self.training is None:
            yield f"trains={self.trains.kind!r}, and there is no training"
        if self.training is not None:
            if self.training.asks:
                kinds = ", ".join(source.kind for source in self.training.asks)
                yield f"training.sources must have written answers, nobody teaches a teacher; got {kinds}"
            if self.training.start == "teacher":
                yield "training.start='teacher' has no meaning: the teacher is made out of its model"
            if self.training.tune.lrs:
                yield "training.tune is for what is scored as a student: give the teacher one learning rate"


@dataclass(frozen=True)
class Baseline:
    """Another way to train the same student, in one round over all operations, scored as the student is.

    A baseline that asks a model draws with the seeds of the student's first round: the same answers, if it asks alike.
    """

    name: str  # in the results
    training: Training

    def problems(self) -> Iterator[str]:
        """A name that means something else; rounds in segments."""
        if not self.name or "/" in self.name or self.name in SCORES:
            yield f"name must be a name without '/', and none of {', '.join(SCORES)}; got {self.name!r}"
        if self.training.update.every:
            yield "training.update.every is for the student: a baseline learns in one segment"


def gradient_descent(lrs: tuple[float, ...], epochs: int = 20, every: int = 5, batch: int = 16) -> Baseline:
    """The paper's baseline: cross-entropy on the demonstrations themselves, the best of a grid on validation examples.

    Weights are scored after every `every` epochs and at the end, at each learning rate.
    """
    update = Update(epochs=epochs, batch=batch)
    return Baseline("gradient_descent", supervised(FromDemonstrations(), update=update, tune=Tune(lrs, every)))


@dataclass(frozen=True)
class Plan:
    """How operations combine (paper, section 2.3).

    simultaneous: all in one round. sequential: one a round, the teacher stays the original model.
    recursive: one a round, the student of a round is the teacher of the next.
    With `rounds` a round is a group: its operations are distilled together, and its student is scored on them alone.
    """

    order: Literal["simultaneous", "sequential", "recursive"] = "simultaneous"
    rounds: tuple[tuple[str, ...], ...] = ()  # the names of each round's operations; empty: as the order says
    repeat: int = at_least(1, 1)  # number of times that the whole list is run
    ema: float = between(0, 1, 0.0)  # share of the teacher that stays when the student is averaged into it
    ema_every: Literal["round", "segment"] = "round"  # when: after each round of a recursive plan, or each segment

    def problems(self) -> Iterator[str]:
        """Groups that are rounds at once; a teacher that never moves."""
        if self.rounds and self.order == "simultaneous":
            yield "rounds follow one another: order must be 'sequential' or 'recursive'"
        if self.ema == 1:
            yield "ema=1 leaves the teacher as it is: use 0, which averages nothing, or less than 1"


@dataclass(frozen=True)
class Limits:
    """Length budgets in tokens; each view has its own."""

    teacher_prompt: int = at_least(1, 1024)
    student_prompt: int = at_least(1, 512)
    completion: int = at_least(1, 64)
    overflow: Literal["error", "drop"] = "error"


@dataclass(frozen=True)
class Score:
    """What is measured before and after."""

    examples: int = at_least(1, 128)  # test examples at most
    validation: int = at_least(0, 64)  # examples that choose points of a grid (`tune`); never test examples
    measures: tuple[Measure, ...] = (HeldOutKL(), Forgetting())  # of the student, beside its grades
    every: Literal["round", "segment"] = "round"  # when a student is scored: after rounds, or inside them too

    def problems(self) -> Iterator[str]:
        """A kind of measure twice."""
        kinds = [measure.kind for measure in self.measures]
        if len(set(kinds)) < len(kinds):
            yield f"measures has a kind twice: {', '.join(kinds)}"


@dataclass(frozen=True)
class Mesh:
    """Devices along each axis; -1 for `data` takes what is left."""

    data: int = 1
    fsdp: int = at_least(1, 1)
    tensor: int = at_least(1, 1)

    def problems(self) -> Iterator[str]:
        """Neither a count nor -1."""
        if self.data < 1 and self.data != -1:
            yield f"data must be at least 1, or -1 for the devices that are left; got {self.data}"


@dataclass(frozen=True)
class Devices:
    """What a run computes on, and in what precision."""

    mesh: Mesh = Mesh()
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"  # auto: what is faster here, measured at the start
    remat: Literal["none", "dots", "full"] = "dots"  # what the backward pass keeps: all, products, or nothing


@dataclass(frozen=True)
class Experiment:
    """Everything that one run needs; saved as `config.json` beside its results."""

    name: str
    model: str  # the student's: a directory, hub id, .gguf file, or pypi:PACKAGE; see cdjax.load_model
    operations: tuple[Operation, ...]  # what is distilled; how they combine is the plan's to say
    data_dir: str = ""
    layers: tuple[int, ...] = ()  # only these of the model's layers, in this order; empty: all
    template: Template = Template()
    teachers: tuple[Teacher, ...] = (Teacher(),)  # the first one writes; targets are the mean of all
    student: Student = Whole()
    training: Training = Training()
    baselines: tuple[Baseline, ...] = ()
    plan: Plan = Plan()
    limits: Limits = Limits()
    score: Score = Score()
    devices: Devices = Devices()
    seeds: tuple[int, ...] = (0,)

    def rounds(self) -> tuple[tuple[int, ...], ...]:
        """The operations, by number, that each round distils together (paper, section 2.3)."""
        names = [operation.title for operation in self.operations]
        numbers = tuple(range(len(names)))
        apart = (numbers,) if self.plan.order == "simultaneous" else tuple((number,) for number in numbers)
        groups = tuple(tuple(map(names.index, group)) for group in self.plan.rounds)
        return (groups or apart) * self.plan.repeat

    def scored(self, number: int) -> tuple[int, ...]:
        """The operations that the student of round `number` is scored on: all, where the plan does not group them."""
        return self.rounds()[number] if self.plan.rounds else tuple(range(len(self.operations)))

    def trainings(self) -> dict[str, Training]:
        """Every training of the run, by its dotted path."""
        made = {f"teachers.{number}": teacher.training for number, teacher in enumerate(self.teachers)}
        made |= {f"baselines.{number}": baseline.training for number, baseline in enumerate(self.baselines)}
        return {"training": self.training} | {
            f"{path}.training": training for path, training in made.items() if training is not None
        }

    def alike(self, teacher: Teacher) -> bool:
        """Whether a teacher is the student's model under the student's template, and trains as the student does."""
        same_model = (teacher.model or self.model, teacher.layers) == (self.model, self.layers)
        same_template = teacher.template in (None, self.template)
        return same_model and same_template and teacher.trains in (None, self.student)

    def problems(self) -> Iterator[str]:
        """What parts that are each in order cannot be together."""
        from cdjax.config import check

        if not self.name or not self.model:
            yield "name and model must not be empty"
        if self.data_dir and not Path(self.data_dir).is_dir():
            yield f"data_dir is {self.data_dir!r}, which is not a directory"
        sources: dict[str, Any] = {"model": self.model}
        sources |= {f"teachers.{number}.model": teacher.model for number, teacher in enumerate(self.teachers)}
        for path, model in sources.items():
            if (model.endswith(".gguf") or model.startswith((".", "/"))) and not Path(model).exists():
                yield f"{path} is {model!r}, and there is no such file or directory"
        seeds = self.seeds
        if not seeds or len(set(seeds)) < len(seeds) or not 0 <= min(seeds) <= max(seeds) < 2**32:
            yield f"seeds must be different numbers from 0 to 2**32 - 1, at least one; got {list(seeds)}"
        yield from check.together(self)
