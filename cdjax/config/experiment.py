"""An experiment as data: what is distilled into what, and how.

In: a Python file from `configs/` with `get_config()`, and `a.b=c` overrides. Out: one frozen `Experiment`.
A field is here only if two experiments differ in it; everything else is an argument default where it is used.
"""

import json
import runpy
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cdjax import parts
from cdjax.config import read
from cdjax.errors import UserError
from cdjax.learn import Optim
from cdjax.lessons import Update
from cdjax.lessons.keep import Keep
from cdjax.lessons.labelled import Labelled
from cdjax.lessons.sources import Source
from cdjax.lessons.sources.teacher import FromTeacher
from cdjax.losses import Loss
from cdjax.losses.forward_kl import ForwardKL
from cdjax.sampling import Sampling
from cdjax.sampling.targets import Targets
from cdjax.sampling.targets.top_k import TopK
from cdjax.score.measures import Measure
from cdjax.score.measures.forgetting import Forgetting
from cdjax.score.measures.held_out_kl import HeldOutKL
from cdjax.students import Student
from cdjax.students.whole import Whole
from cdjax.tasks.inputs import Inputs
from cdjax.views.context import Context, Template


@dataclass(frozen=True)
class Operation:
    """The paper's 4-tuple (D, T_teacher, T_student, f) for one task."""

    name: str = "operation"
    task: str = ""  # a name in `cdjax.tasks`; empty: the task is just its `inputs.file`
    inputs: Inputs = Inputs()
    context: Context = Context()
    student_context: Context = Context()
    keep: Keep = Keep()


@dataclass(frozen=True)
class Plan:
    """How operations combine (paper, section 2.3).

    simultaneous: all in one round. sequential: one a round, the teacher stays the original model.
    recursive: one a round, the student of a round is the teacher of the next.
    With `rounds` a round is a group: its operations are distilled together, and its student is scored on them alone.
    """

    order: Literal["simultaneous", "sequential", "recursive"] = "simultaneous"
    operations: tuple[Operation, ...] = ()  # empty: the experiment's own operation alone
    rounds: tuple[tuple[str, ...], ...] = ()  # the names of each round's operations; empty: as the order says
    repeat: int = 1  # run the whole list so many times
    ema: float = 0.0  # how much of the teacher stays when the student is averaged into it ...
    ema_every: Literal["round", "segment"] = "round"  # ... after each round of a recursive plan, or each segment


@dataclass(frozen=True)
class Tune:
    """The student's learning rate and epoch, chosen on labelled validation examples as the baseline's are."""

    lrs: tuple[float, ...] = ()  # empty: optim.lr, and the last checkpoint counts
    every: int = 1  # epochs between two scores


@dataclass(frozen=True)
class Limits:
    """Length budgets in tokens; each view has its own."""

    teacher_prompt: int = 1024
    student_prompt: int = 512
    completion: int = 64
    overflow: Literal["error", "drop"] = "error"


@dataclass(frozen=True)
class Supervised:
    """Fine-tuning on solved examples: cross-entropy on their written answers."""

    name: str = ""  # of a baseline in the results
    examples: tuple[Labelled, ...] = ()  # all of them at once; empty: no fine-tuning
    start: Literal["model", "teacher"] = "model"  # the weights it begins with; the teacher's own are the model's
    optim: Optim = Optim()
    update: Update = Update()


@dataclass(frozen=True)
class GradientDescent:
    """The baseline: fine-tune on the demonstrations themselves, the best of a grid on validation examples."""

    lrs: tuple[float, ...] = ()  # empty: no baseline
    epochs: int = 20  # scored after every `every` epochs; the best one counts
    every: int = 5
    batch: int = 16


@dataclass(frozen=True)
class Score:
    """What is measured before and after."""

    examples: int = 128  # test examples at most
    validation: int = 64  # examples that choose points of the baseline's grid and the student's; never test examples
    measures: tuple[Measure, ...] = (HeldOutKL(), Forgetting())  # of the student, beside its grades
    baseline: GradientDescent = GradientDescent()
    supervised: tuple[Supervised, ...] = ()  # further baselines, each scored as the student is


@dataclass(frozen=True)
class Mesh:
    """Devices along each axis; -1 for `data` takes what is left."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1


@dataclass(frozen=True)
class Experiment:
    """Everything that one run needs; saved as `config.json` beside its results."""

    name: str
    model: str  # a directory, hub id, .gguf file, or pypi:PACKAGE; see cdjax.load_model
    task: str = ""
    data_dir: str = ""
    template: Template = Template()
    context: Context = Context()
    student_context: Context = Context()
    inputs: Inputs = Inputs()
    keep: Keep = Keep()
    teacher: Supervised = Supervised()  # what makes the teacher out of the model, before the first round
    start: Literal["teacher", "model"] = "teacher"  # what the student begins as; they differ if the teacher was tuned
    replay: tuple[Labelled, ...] = ()  # solved examples that every round learns beside the answers, against forgetting
    plan: Plan = Plan()
    source: Source = FromTeacher()  # who writes what is learned
    sampling: Sampling = Sampling()
    targets: Targets = TopK()
    losses: tuple[Loss, ...] = (ForwardKL(),)  # each times its weight
    student: Student = Whole()
    optim: Optim = Optim()
    update: Update = Update()
    tune: Tune = Tune()
    limits: Limits = Limits()
    score: Score = Score()
    mesh: Mesh = Mesh()
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"  # auto: what is faster here, measured at the start
    remat: Literal["none", "dots", "full"] = "dots"  # what the backward pass keeps: all, products, or nothing
    seeds: tuple[int, ...] = (0,)

    def operations(self) -> tuple[Operation, ...]:
        """The plan's operations, or the experiment's own one."""
        own = Operation(self.name, self.task, self.inputs, self.context, self.student_context, self.keep)
        return self.plan.operations or (own,)

    def rounds(self) -> tuple[tuple[int, ...], ...]:
        """The operations, by number, that each round distils together (paper, section 2.3)."""
        names = [operation.name for operation in self.operations()]
        every = tuple(range(len(names)))
        groups = tuple(tuple(map(names.index, group)) for group in self.plan.rounds)
        once = groups or ((every,) if self.plan.order == "simultaneous" else tuple((number,) for number in every))
        return once * self.plan.repeat

    def scored(self, number: int) -> tuple[int, ...]:
        """The operations that the student of round `number` is scored on: all, where the plan does not group them."""
        return self.rounds()[number] if self.plan.rounds else tuple(range(len(self.operations())))


def load_config(path: str | Path) -> Experiment:
    """The Experiment of a Python file with `get_config()`, or of a run's `config.json`; its types are checked."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no config file {path}")
    if path.suffix == ".json":
        try:
            return from_json(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise UserError(f"{path} is not UTF-8 text") from None
    try:
        made = runpy.run_path(str(path))["get_config"]()
    except UserError:
        raise
    except KeyError as error:
        if error.args != ("get_config",):
            raise UserError(_blame(path, error)) from error
        raise UserError(f"{path} has no get_config(); define one that returns a cdjax.Experiment") from None
    except Exception as error:  # whatever a user's file does wrong is the user's to see, at the line where it happened
        raise UserError(_blame(path, error)) from error
    if not isinstance(made, Experiment):
        raise UserError(f"get_config() in {path} must return a cdjax.Experiment, got a {type(made).__name__}")
    return read.convert(Experiment, made, "")


def override(cfg: Experiment, changes: Mapping[str, Any]) -> Experiment:
    """A copy with `{"optim.lr": 3e-5, "plan.operations.0.name": "first"}` set, in that order.

    A value may be text as on the command line. A dict stands for a whole part: what it leaves out takes its default.
    """
    for path, value in changes.items():
        cfg = read.assign(Experiment, cfg, path.split("."), value)
    return cfg


def to_json(cfg: Experiment) -> str:
    """Every field, defaults included, as indented JSON."""
    return json.dumps(parts.plain(cfg), indent=2, ensure_ascii=False)


def from_json(text: str) -> Experiment:
    """The inverse of `to_json`; fields that are left out take their defaults."""
    return read.convert(Experiment, text, "")


def _blame(path: Path, error: Exception) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line, said = (lines or [1])[-1], str(error)
    if isinstance(error, SyntaxError):
        line, said = error.lineno, error.msg
    return f"{path}, line {line}: {type(error).__name__}: {' '.join(said.split())}"
